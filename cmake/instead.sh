#!/bin/sh
# A launcher for CMake: instead.sh "COMMAND" compiler arguments...   runs COMMAND in the compiler's place.
command=$1
shift 2
exec $command "$@"
