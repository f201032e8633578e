/* Preloaded into the agent when it runs under valgrind: there /proc/self/exe is valgrind, and an agent that starts its
 * guard by that name would start valgrind. This starts $MIRRORD_BENCH_AGENT instead. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *meant(const char *path) {
    const char *agent = getenv("MIRRORD_BENCH_AGENT");
    return agent && strcmp(path, "/proc/self/exe") == 0 ? agent : path;
}

int posix_spawnp(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attributes,
                 char *const argv[], char *const envp[]) {
    __typeof__(posix_spawnp) *real = (__typeof__(real))dlsym(RTLD_NEXT, "posix_spawnp");
    return real(pid, meant(path), actions, attributes, argv, envp);
}

int execvp(const char *path, char *const argv[]) {
    __typeof__(execvp) *real = (__typeof__(real))dlsym(RTLD_NEXT, "execvp");
    return real(meant(path), argv);
}
