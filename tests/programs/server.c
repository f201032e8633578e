/* Web server in plain C, a thread a connection, IPv4 and IPv6. Arguments: NAME LOG PORT...
 * Says in LOG where it listens and what it was asked. GET /bytes/N answers N bytes; a request's body is read as it comes. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *name;
static int log_fd;

static void say(const char *format, ...)
{
    char line[4096];
    va_list list;
    va_start(list, format);
    int length = vsnprintf(line, sizeof line - 1, format, list);
    va_end(list);
    if (length > (int)sizeof line - 2)
        length = sizeof line - 2;
    line[length++] = '\n';
    if (write(log_fd, line, length) < 0)
        exit(3);
}

static int send_all(int fd, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
        if (sent <= 0)
            return -1;
        bytes += sent;
        length -= sent;
    }
    return 0;
}

static int send_zeros(int fd, unsigned long long length)
{
    static const char block[256 << 10];
    while (length > 0) {
        size_t part = length < sizeof block ? length : sizeof block;
        if (send_all(fd, block, part) < 0)
            return -1;
        length -= part;
    }
    return 0;
}

static const char *field(const char *head, const char *wanted)
{
    static __thread char value[256];
    value[0] = 0;
    for (const char *line = strstr(head, "\r\n"); line && line[2] && line[2] != '\r'; line = strstr(line + 2, "\r\n")) {
        size_t length = strlen(wanted);
        if (strncasecmp(line + 2, wanted, length) == 0 && line[2 + length] == ':') {
            sscanf(line + 3 + length, " %255[^\r\n]", value);
            break;
        }
    }
    return value;
}

static void address(struct sockaddr_storage *from, char *text, int *port)
{
    if (from->ss_family == AF_INET) {
        struct sockaddr_in *four = (void *)from;
        inet_ntop(AF_INET, &four->sin_addr, text, 64);
        *port = ntohs(four->sin_port);
    } else {
        struct sockaddr_in6 *six = (void *)from;
        inet_ntop(AF_INET6, &six->sin6_addr, text, 64);
        *port = ntohs(six->sin6_port);
    }
}

static void *serve(void *argument)
{
    int fd = (int)(long)argument, one = 1, port, ignored;
    struct sockaddr_storage peer = {0}, local = {0};
    socklen_t length = sizeof peer;
    char peer_text[64], local_text[64];
    getpeername(fd, (void *)&peer, &length);
    length = sizeof local;
    getsockname(fd, (void *)&local, &length);
    address(&peer, peer_text, &ignored);
    address(&local, local_text, &port);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);

    static const size_t room = 256 << 10;
    char *buffer = malloc(room + 1);
    size_t held = 0;
    for (;;) {
        char *end;
        buffer[held] = 0;
        while (!(end = strstr(buffer, "\r\n\r\n"))) {
            ssize_t got = held < room ? recv(fd, buffer + held, room - held, 0) : 0;
            if (got <= 0)
                goto done;
            held += got;
            buffer[held] = 0;
        }
        end[2] = 0;
        char method[16] = "", path[1024] = "";
        sscanf(buffer, "%15s %1023s", method, path);
        unsigned long long body = strtoull(field(buffer, "content-length"), NULL, 10), left = body;
        char user[256];
        strcpy(user, field(buffer, "x-user"));
        size_t used = end + 4 - buffer;
        size_t here = held - used < left ? held - used : left;
        left -= here;
        used += here;
        memmove(buffer, buffer + used, held - used);
        held -= used;
        /* What is left of the body lies on the socket; nothing of a next request is read with it. */
        while (left > 0) {
            ssize_t got = recv(fd, buffer, left < room ? left : room, 0);
            if (got <= 0)
                goto done;
            left -= got;
        }
        say("request %s %s peer=%s local=%d body=%llu user=%s", method, path, peer_text, port, body, user);
        char head[512], text[1400];
        unsigned long long size = 0;
        int many = sscanf(path, "/bytes/%llu", &size) == 1;
        int text_length = snprintf(text, sizeof text, "program %s %s %s body=%llu\n", name, method, path, body);
        int head_length = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %llu\r\nX-Program: %s\r\n\r\n",
                                   many ? size : (unsigned long long)text_length, name);
        if (send_all(fd, head, head_length) < 0 || (many ? send_zeros(fd, size) : send_all(fd, text, text_length)) < 0)
            goto done;
    }
done:
    free(buffer);
    close(fd);
    return NULL;
}

static void *listen_on(void *argument)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(argument))};
    int fd = socket(AF_INET6, SOCK_STREAM, 0), one = 1, zero = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
    if (bind(fd, (void *)&any, sizeof any) < 0 || listen(fd, 512) < 0) {
        perror("cannot listen");
        exit(4);
    }
    socklen_t length = sizeof any;
    getsockname(fd, (void *)&any, &length);
    say("listening %d", ntohs(any.sin6_port));
    for (;;) {
        int client = accept(fd, NULL, NULL);
        pthread_t thread;
        if (client >= 0 && pthread_create(&thread, NULL, serve, (void *)(long)client) == 0)
            pthread_detach(thread);
    }
}

static void on_signal(int number)
{
    say("signal %d", number);
    _exit(5);
}

int main(int count, char **arguments)
{
    if (count < 4)
        return 2;
    name = arguments[1];
    log_fd = open(arguments[2], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    for (int i = 3; i < count; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, listen_on, arguments[i]);
    }
    for (;;)
        pause();
}
