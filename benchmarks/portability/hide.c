/* Makes onnxruntime take this x86 for an older one, at full speed: preloaded beside a copy of onnxruntime in which hide.py
   has put an undefined instruction in the place of each CPUID. That ends here, CPUID is asked, and what BINSIGHT_HIDE names
   is taken out of the answer: "vnni" (with AVX512 and AMX: a Haswell), "avx" (with FMA and all later ones: a Westmere). */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

static int no_avx;

static void answer(int number, siginfo_t *info, void *context) {
  greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
  const unsigned char *at = (const unsigned char *)r[REG_RIP];
  (void)info;
  if (at[0] != 0x0f || at[1] != 0x0b) { signal(number, SIG_DFL); return; }
  unsigned leaf = r[REG_RAX], sub = r[REG_RCX], a, b, c, d;
  __cpuid_count(leaf, sub, a, b, c, d);
  if (leaf == 7 && sub == 0) { /* Source: Intel SDM volume 2A, CPUID */
    b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31); /* AVX512 */
    c &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);                                    /* and its VNNI */
    d &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25);               /* AMX, FP16 */
    if (no_avx) b &= ~(1u << 5);                                                                   /* AVX2 */
  }
  if (leaf == 7 && sub == 1) a = b = c = d = 0;                       /* AVX-VNNI, AVX10 */
  if (leaf == 1 && no_avx) c &= ~(1u << 12 | 1u << 28 | 1u << 29);    /* FMA, AVX, F16C */
  r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d, r[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
  struct sigaction action;
  const char *hidden = getenv("BINSIGHT_HIDE");
  no_avx = hidden && !strcmp(hidden, "avx");
  memset(&action, 0, sizeof action);
  action.sa_sigaction = answer;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGILL, &action, 0);
}
