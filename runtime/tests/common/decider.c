// Who decides about system calls: takes one connection of the socket on its standard input, prints what it is told,
// and answers one call with ENOMEDIUM.
#include <errno.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void) {
    static char text[65536];
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec data = {text, sizeof(text)};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    int connection = accept(0, NULL, NULL);
    if (connection < 0) return 2;
    ssize_t length = recvmsg(connection, &message, 0);
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    if (length <= 0 || !rights || rights->cmsg_type != SCM_RIGHTS) return 3;
    int listener;
    memcpy(&listener, CMSG_DATA(rights), sizeof(int));
    while (length > 0) {
        if (write(1, text, length) != length) return 4;
        length = read(connection, text, sizeof(text));
    }
    struct seccomp_notif call = {0};
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call)) return 5;
    struct seccomp_notif_resp answer = {.id = call.id, .error = -ENOMEDIUM};
    return ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer) ? 6 : 0;
}
