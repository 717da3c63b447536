/* A server that binds for itself and has never heard of socket passing: binds 127.0.0.1:PORT, and
 * answers its generation, nothing, and its pid.  TERM ends it at once.
 *
 *   binds PORT           blocking, one after the other
 *   binds PORT epoll     gives its socket to epoll(7) before bind(2), as Boost.Asio does
 *   binds PORT signals   is interrupted by signals all the time, until it listens
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void answer(int connection) {
    char request[4096], body[96], response[256];
    size_t size = 0;
    ssize_t more;
    request[0] = 0;
    while (!strstr(request, "\r\n\r\n")) {
        more = read(connection, request + size, sizeof request - 1 - size);
        if (more <= 0) return;
        size += more;
        request[size] = 0;
    }
    int length = snprintf(body, sizeof body, "%s 0 %d\n", getenv("OVERSEER_GENERATION"), getpid());
    int total = snprintf(response, sizeof response,
                         "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
                         length, body);
    if (write(connection, response, total) != total) perror("write");
}

static void nothing(int number) { (void)number; }

static void ring(long microseconds) {
    struct itimerval timer = {{0, microseconds}, {0, microseconds}};
    setitimer(ITIMER_REAL, &timer, NULL);
}

int main(int argc, char **argv) {
    const char *mode = argc > 2 ? argv[2] : "";
    int on = 1, epoll = -1;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    struct epoll_event event = {.events = EPOLLIN};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (!strcmp(mode, "epoll")) {
        epoll = epoll_create1(0);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event)) die("epoll_ctl");
    }
    if (!strcmp(mode, "signals")) {
        struct sigaction action = {.sa_handler = nothing, .sa_flags = SA_RESTART};
        sigaction(SIGALRM, &action, NULL);
        ring(1000);
    }
    if (bind(listener, (struct sockaddr *)&address, sizeof address)) die("bind");
    if (listen(listener, 16)) die("listen");
    ring(0);
    for (;;) {
        if (epoll >= 0 && epoll_wait(epoll, &event, 1, -1) < 1) continue;
        int connection = accept(listener, NULL, NULL);
        if (connection < 0) {
            if (errno == EINTR || errno == ECONNABORTED) continue;
            die("accept");
        }
        answer(connection);
        shutdown(connection, SHUT_WR);
        close(connection);
    }
}
