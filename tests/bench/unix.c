/* Preloaded into wrk, which knows TCP alone: it connects to the Unix socket $BENCH_SOCKET instead. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    const char *path = getenv("BENCH_SOCKET");
    struct sockaddr_un unix_address = {.sun_family = AF_UNIX};

    if (!path || strlen(path) >= sizeof unix_address.sun_path || address->sa_family != AF_INET)
        return next(fd, address, length);
    strcpy(unix_address.sun_path, path);
    int flags = fcntl(fd, F_GETFL), other = socket(AF_UNIX, SOCK_STREAM, 0);
    dup2(other, fd);
    close(other);
    /* Waits where the queue is full, as TCP would: a Unix socket answers EAGAIN at once. */
    int result = next(fd, (struct sockaddr *)&unix_address, sizeof unix_address);
    fcntl(fd, F_SETFL, flags);
    return result;
}
