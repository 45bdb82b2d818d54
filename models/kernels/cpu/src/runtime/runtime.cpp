// What a freshly loaded library must do before its first kernel runs.
#include "linear/amx.h"
#include "simd/simd.h"

#if HR_AMX
#include <sys/syscall.h>
#include <unistd.h>

// The tile registers must be asked for once a process, before the first use by any thread.
__attribute__((constructor)) static void request_tiles() {
  syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */);
}
#endif

// Whether kernels may use AMX from now on; not while one runs. Without it, rows are added up in the same order in any number.
HR_API void hr_allow_amx(int is_allowed) { hr::allows_amx = is_allowed != 0; }
