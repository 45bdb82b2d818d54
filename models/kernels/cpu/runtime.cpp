// What the loader asks a freshly loaded library.
#include <omp.h>

#include "simd.h"

// Threads a parallel region would get; equal to torch.get_num_threads() if both use one OpenMP runtime.
HR_API int hr_max_threads() { return omp_get_max_threads(); }
