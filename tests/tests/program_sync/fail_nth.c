/*
 * fail_nth N LOG COMMAND...: runs COMMAND, and its Nth fdatasync fails with EIO without having been done.
 *
 * Counts over all threads of the process; one call fails, later ones are done. A line is written to LOG when the call was failed, so that the
 * caller knows whether the command made so many calls. Ends as the command ends. x86-64 Linux, by ptrace: the program makes its system
 * calls without the C library, so that preloading a library would not reach them.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

/* Threads that are inside the call that is failed: at most one. */
static pid_t failing;

static void at_call(pid_t thread, long wanted, long *count, const char *log)
{
    struct user_regs_struct regs;

    if (ptrace(PTRACE_GETREGS, thread, 0, &regs) != 0)
        return;
    if (thread == failing) { /* the exit of the failed call */
        failing = 0;
        regs.rax = (unsigned long long)-EIO;
        ptrace(PTRACE_SETREGS, thread, 0, &regs);
        return;
    }
    /* The kernel shows -ENOSYS in rax at the entry of a call, and its result at the exit. */
    if (regs.orig_rax != SYS_fdatasync || regs.rax != (unsigned long long)-ENOSYS || ++*count != wanted)
        return;
    FILE *file = fopen(log, "w");
    if (file != NULL) {
        fputs("failed\n", file);
        fclose(file);
    }
    failing = thread;
    regs.orig_rax = (unsigned long long)-1; /* no call */
    ptrace(PTRACE_SETREGS, thread, 0, &regs);
}

int main(int argc, char **argv)
{
    long count = 0, wanted;
    int status, code = 98;
    pid_t child, thread;

    if (argc < 4)
        return 99;
    wanted = atol(argv[1]);
    child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        execv(argv[3], argv + 3);
        _exit(97);
    }
    if (child < 0 || waitpid(child, &status, 0) < 0)
        return 99;
    ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL);
    ptrace(PTRACE_SYSCALL, child, 0, 0);
    while ((thread = waitpid(-1, &status, __WALL)) > 0) {
        int signal = 0;

        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (thread == child)
                code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            continue;
        }
        if (WSTOPSIG(status) == (SIGTRAP | 0x80))
            at_call(thread, wanted, &count, argv[2]);
        else if (status >> 16 == 0 && WSTOPSIG(status) != SIGSTOP && WSTOPSIG(status) != SIGTRAP)
            signal = WSTOPSIG(status); /* the command's own */
        ptrace(PTRACE_SYSCALL, thread, 0, signal);
    }
    return code;
}
