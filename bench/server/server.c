/* The smallest web server worth measuring against: one thread, epoll, keep-alive, a 100-byte body for every request.
 *
 *   server PORT...
 *
 * It stands for the program that a developer runs, so that what is measured is the way to it. Requests have no body;
 * several may come in one packet, or one in several. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_FD = 65536, EVENTS = 256, PIPELINED = 16 };

static const char response[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n"
                               "0123456789012345678901234567890123456789012345678\n"
                               "0123456789012345678901234567890123456789012345678\n";
enum { RESPONSE = sizeof response - 1 };

/* How much of "\r\n\r\n" each connection has shown: all that is to know of a request without a body. */
static unsigned char matched[MAX_FD];
/* Whether it is a listener. */
static unsigned char listens[MAX_FD];

static int requests_in(const char *bytes, ssize_t count, unsigned char *state) {
    static const char end[] = "\r\n\r\n";
    int complete = 0;
    for (ssize_t i = 0; i < count; i++) {
        if (bytes[i] == end[*state])
            (*state)++;
        else
            *state = bytes[i] == '\r';
        if (*state == 4) {
            complete++;
            *state = 0;
        }
    }
    return complete;
}

/* Returns 0 when the connection is over. The answers fit the socket's buffer: the client waits for them. */
static int serve(int fd) {
    char buffer[16384];
    ssize_t count = read(fd, buffer, sizeof buffer);
    if (count <= 0)
        return count < 0 && errno == EAGAIN;
    for (int left = requests_in(buffer, count, &matched[fd]); left > 0;) {
        char out[PIPELINED * RESPONSE];
        int now = left < PIPELINED ? left : PIPELINED;
        for (int i = 0; i < now; i++)
            memcpy(out + i * RESPONSE, response, RESPONSE);
        if (write(fd, out, now * RESPONSE) != now * RESPONSE)
            return 0;
        left -= now;
    }
    return 1;
}

static void fatal(const char *what) {
    perror(what);
    exit(1);
}

static void listen_on(const char *port, int poll) {
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        fatal("listen");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event))
        fatal("epoll");
    listens[listener] = 1;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: server PORT...\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    int on = 1, poll = epoll_create1(EPOLL_CLOEXEC);
    if (poll < 0)
        fatal("epoll");
    for (int i = 1; i < argc; i++)
        listen_on(argv[i], poll);
    struct epoll_event event = {.events = EPOLLIN}, events[EVENTS];
    for (;;) {
        int count = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd, listener = fd;
            if (!listens[fd]) {
                if (!serve(fd))
                    close(fd);
                continue;
            }
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
                if (fd >= MAX_FD) {
                    close(fd);
                    continue;
                }
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                matched[fd] = 0;
                event.data.fd = fd;
                if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event))
                    close(fd);
            }
        }
    }
}
