// The best instruction-set level of this processor and operating system; compiled without any machine option.

// Index into LEVELS of models/kernels/cpu/build.py: 0 portable, 1 AVX2, 2 AVX-512, 3 and VNNI, 4 and BF16.
extern "C" __attribute__((visibility("default"))) int hr_cpu_level() {
#ifdef __x86_64__
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512dq"))
    return 1;
  if (!__builtin_cpu_supports("avx512vnni")) return 2;
  return __builtin_cpu_supports("avx512bf16") ? 4 : 3;
#else
  return 0;
#endif
}
