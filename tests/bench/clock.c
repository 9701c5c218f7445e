/* Runs one program, its output thrown away, and says what it cost: a process so small that nothing of it shows in the
 * figures. (The peak memory of a child begins at that of whoever forked it, so a test program cannot ask for itself.)
 *
 * usage: clock PROGRAM [ARG...]
 * prints: nanoseconds, peak KiB, context switches (voluntary, involuntary), page faults, exit status
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct timespec from, to;
	struct rusage used;
	int status;
	if (argc < 2)
		return 2;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	clock_gettime(CLOCK_MONOTONIC, &from);
	pid_t pid = vfork();
	if (pid == 0) {
		dup2(null, 0);
		dup2(null, 1);
		execvp(argv[1], argv + 1);
		_exit(127);
	}
	if (pid < 0 || wait4(pid, &status, 0, &used) < 0)
		return 3;
	clock_gettime(CLOCK_MONOTONIC, &to);
	long long nanoseconds = (to.tv_sec - from.tv_sec) * 1000000000LL + (to.tv_nsec - from.tv_nsec);
	printf("%lld %ld %ld %ld %ld %d\n", nanoseconds, used.ru_maxrss, used.ru_nvcsw, used.ru_nivcsw,
		used.ru_minflt, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	return 0;
}
