/* The floor under `run` and `exec`: what the kernel alone costs for the container of the runtime bench.
 *
 * The same container as the runtimes make of the bench's config.json (tests/src/bench/bundle.rs): one clone3 into
 * the cgroup and the namespaces, every mount, device, link, masked and read-only path, pivot_root, identity,
 * exec, wait, and the cgroup removed. Everything is known beforehand: nothing is parsed, checked, recorded or
 * protected, and an error only says where.
 *
 * usage: floor run ROOTFS CGROUP net|nonet PROGRAM [ARG...]
 *        floor exec PID CGROUP - PROGRAM [ARG...]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <net/if.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(long result, const char *what)
{
	if (result < 0) {
		fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
		_exit(125);
	}
}

static void filesystem(const char *kind, const char *at, unsigned long flags, const char *options)
{
	check(mount(kind, at, kind, flags, options), at);
}

static void make_devices(void)
{
	static const struct { const char *at; int major, minor; } nodes[] = {
		{"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7},
		{"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0},
	};
	static const char *const links[][2] = {
		{"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"},
		{"/proc/self/fd/1", "dev/stdout"}, {"/proc/self/fd/2", "dev/stderr"},
		{"pts/ptmx", "dev/ptmx"},
	};
	for (unsigned i = 0; i < sizeof nodes / sizeof *nodes; i++)
		check(mknod(nodes[i].at, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)), nodes[i].at);
	for (unsigned i = 0; i < sizeof links / sizeof *links; i++)
		check(symlink(links[i][0], links[i][1]), links[i][1]);
}

static void protect(void)
{
	static const char *const readonly[] = {
		"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
	};
	static const char *const masked[] = {
		"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
	};
	struct stat found;
	for (unsigned i = 0; i < sizeof readonly / sizeof *readonly; i++) {
		if (mount(readonly[i], readonly[i], NULL, MS_BIND | MS_REC, NULL) < 0)
			continue;
		check(mount(NULL, readonly[i], NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL), readonly[i]);
	}
	for (unsigned i = 0; i < sizeof masked / sizeof *masked; i++) {
		if (stat(masked[i], &found) < 0)
			continue;
		if (S_ISDIR(found.st_mode))
			filesystem("tmpfs", masked[i], MS_RDONLY, "size=0");
		else
			check(mount("/dev/null", masked[i], NULL, MS_BIND, NULL), masked[i]);
	}
}

static void become(void)
{
	/* CAP_KILL, CAP_NET_BIND_SERVICE, CAP_AUDIT_WRITE */
	const uint64_t keep = 1u << 5 | 1u << 10 | 1u << 29;
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{(uint32_t)keep, (uint32_t)keep, 0}};
	const struct rlimit files = {1024, 1024};
	check(setrlimit(RLIMIT_NOFILE, &files), "setrlimit");
	for (int capability = 0; prctl(PR_CAPBSET_READ, capability) >= 0; capability++)
		if (!(keep >> capability & 1))
			check(prctl(PR_CAPBSET_DROP, capability), "drop a capability");
	check(syscall(SYS_capset, &header, data), "capset");
	check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
}

static void loopback_up(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	check(any, "socket");
	check(ioctl(any, SIOCSIFFLAGS, &request), "bring lo up");
	close(any);
}

static void container(const char *rootfs, int net, char **argv)
{
	setsid();
	if (net)
		loopback_up();
	check(mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL), "propagation");
	check(mount(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL), "bind the root");
	check(chdir(rootfs), "enter the root");
	filesystem("proc", "proc", 0, NULL);
	filesystem("tmpfs", "dev", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
	check(mkdir("dev/pts", 0755), "dev/pts");
	filesystem("devpts", "dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
	check(mkdir("dev/shm", 0755), "dev/shm");
	filesystem("tmpfs", "dev/shm", MS_NOSUID | MS_NOEXEC | MS_NODEV, "mode=1777,size=65536k");
	check(mkdir("dev/mqueue", 0755), "dev/mqueue");
	filesystem("mqueue", "dev/mqueue", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL);
	filesystem("sysfs", "sys", MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY, NULL);
	filesystem("cgroup2", "sys/fs/cgroup", MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY, NULL);
	make_devices();
	check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	check(umount2(".", MNT_DETACH), "let go of the old root");
	check(chdir("/"), "enter the new root");
	check(sethostname("bench", 5), "sethostname");
	protect();
	check(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL), "read-only root");
	become();
	execv(argv[0], argv);
	check(-1, argv[0]);
}

static int end_of(long pid)
{
	int status = 0;
	check(waitpid((pid_t)pid, &status, 0), "wait");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int directory_of(const char *cgroup)
{
	int directory = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	check(directory, cgroup);
	return directory;
}

static long clone_into(int directory, uint64_t flags)
{
	struct clone_args args = {0};
	args.flags = CLONE_INTO_CGROUP | flags;
	args.exit_signal = SIGCHLD;
	args.cgroup = (uint64_t)directory;
	long pid = syscall(SYS_clone3, &args, sizeof args);
	check(pid, "clone3");
	return pid;
}

static int run(const char *rootfs, const char *cgroup, int net, char **argv)
{
	uint64_t flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
	check(mkdir(cgroup, 0755), cgroup);
	long pid = clone_into(directory_of(cgroup), net ? flags | CLONE_NEWNET : flags);
	if (pid == 0)
		container(rootfs, net, argv);
	int status = end_of(pid);
	check(rmdir(cgroup), "remove the cgroup");
	return status;
}

static int enter(const char *process, const char *cgroup, char **argv)
{
	int directory = directory_of(cgroup);
	int init = (int)syscall(SYS_pidfd_open, atoi(process), 0);
	check(init, "pidfd_open");
	check(setns(init, CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET), "setns");
	long pid = clone_into(directory, 0);
	if (pid == 0) {
		setsid();
		become();
		execv(argv[0], argv);
		check(-1, argv[0]);
	}
	return end_of(pid);
}

int main(int argc, char **argv)
{
	if (argc < 6)
		return 2;
	if (!strcmp(argv[1], "run"))
		return run(argv[2], argv[3], !strcmp(argv[4], "net"), argv + 5);
	return enter(argv[2], argv[3], argv + 5);
}
