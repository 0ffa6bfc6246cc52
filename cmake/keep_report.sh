#!/bin/sh
# keep_report.sh COMPILER ARGS...: runs nvcc and keeps what ptxas says of the kernels (-Xptxas -v) beside the object, as OBJECT.ptxas.
# tests/nvcc reads it. Warnings and errors are shown as ever.
object=
before=
for a; do
  [ "$before" = -o ] && object=$a
  before=$a
done
"$@" 2>"$object.ptxas"
code=$?
grep -vE '^ptxas info|bytes stack frame,.*bytes spill' "$object.ptxas" >&2
exit $code
