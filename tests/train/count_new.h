// Counts calls of the global operator new in this test program.
#pragma once
#include <cstdint>

int64_t calls_of_new();
