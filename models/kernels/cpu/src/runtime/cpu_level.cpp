// The best instruction-set level of this processor and operating system; compiled without any machine option.

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

// Tiles, bf16 and int8 products; and the kernel grants this process the tile registers.
static bool has_amx() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const unsigned needed = 1u << 22 | 1u << 24 | 1u << 25;
  return (d & needed) == needed && syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
}
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#else
static bool has_amx() { return false; }
#endif

// Index into LEVELS of models/kernels/cpu/build.py: 0 portable, 1 AVX2, 2 AVX-512, 3 and VNNI, 4 and BF16, 5 and AMX; on
// ARM64 1 dot products, 2 and I8MM and BF16.
extern "C" __attribute__((visibility("default"))) int hr_cpu_level() {
#ifdef __x86_64__
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512dq"))
    return 1;
  if (!__builtin_cpu_supports("avx512vnni")) return 2;
  if (!__builtin_cpu_supports("avx512bf16")) return 3;
  return has_amx() ? 5 : 4;
#elif defined(__aarch64__) && defined(__linux__)
  // HWCAP_ASIMDDP; HWCAP2_I8MM and HWCAP2_BF16, which older headers do not name
  const unsigned long both = 1ul << 13 | 1ul << 14;
  if (!(getauxval(AT_HWCAP) & 1ul << 20)) return 0;
  return (getauxval(AT_HWCAP2) & both) == both ? 2 : 1;
#else
  return 0;
#endif
}
