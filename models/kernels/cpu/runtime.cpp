// What the loader asks a freshly loaded library.
#include <omp.h>

#include "amx.h"
#include "simd.h"

#if HR_AMX
#include <sys/syscall.h>
#include <unistd.h>

// The tile registers must be asked for once a process, before the first use by any thread.
__attribute__((constructor)) static void request_tiles() {
  syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */);
}
#endif

// Threads a parallel region would get; equal to torch.get_num_threads() if both use one OpenMP runtime.
HR_API int hr_max_threads() { return omp_get_max_threads(); }
