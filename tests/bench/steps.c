/* Runs one program step by step and says which instructions it came by, each once, in the order of the first time: its own and
 * those of its children, as long as they execute this program.
 *
 * usage: steps PROGRAM [ARG...]
 * prints: addresses in hexadecimal, one per line; exits as the program does
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

/* Our programs are linked to fixed addresses. */
enum { LOWEST = 0x200000, SIZE = 64 << 20 };
static unsigned char seen[SIZE];

static int executes(pid_t pid, const struct stat *program)
{
	char path[64];
	struct stat now;
	snprintf(path, sizeof path, "/proc/%d/exe", pid);
	return stat(path, &now) == 0 && now.st_ino == program->st_ino;
}

static void note(pid_t pid, FILE *out)
{
	unsigned long at = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), 0);
	if (at < LOWEST || at - LOWEST >= SIZE || seen[at - LOWEST])
		return;
	seen[at - LOWEST] = 1;
	fprintf(out, "%lx\n", at);
}

int main(int argc, char **argv)
{
	long options = PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC |
		PTRACE_O_EXITKILL;
	struct stat program;
	int status;
	if (argc < 2 || stat(argv[1], &program) < 0)
		return 2;
	/* The program must not hold our output. */
	FILE *out = fdopen(fcntl(1, F_DUPFD_CLOEXEC, 3), "w");
	pid_t first = fork();
	if (first == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		execv(argv[1], argv + 1);
		_exit(127);
	}
	if (out == NULL || waitpid(first, &status, 0) < 0 || ptrace(PTRACE_SETOPTIONS, first, 0, options) < 0)
		return 3;
	ptrace(PTRACE_SINGLESTEP, first, 0, 0);
	for (;;) {
		pid_t pid = waitpid(-1, &status, __WALL);
		if (pid < 0)
			return 3;
		if (!WIFSTOPPED(status)) {
			if (pid != first)
				continue;
			fclose(out);
			return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
		}
		int signal = WSTOPSIG(status);
		if (status >> 16 == PTRACE_EVENT_EXEC && !executes(pid, &program)) {
			ptrace(PTRACE_DETACH, pid, 0, 0);
			continue;
		}
		if (signal == SIGTRAP || signal == SIGSTOP) {
			signal = 0;
			note(pid, out);
		}
		ptrace(PTRACE_SINGLESTEP, pid, 0, signal);
	}
}
