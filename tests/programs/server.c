/* A server in C: takes its sockets as sd_listen_fds(3) says, answers its generation and its pid,
 * and on TERM finishes the request that it has.
 *
 * TERM is let through in ppoll(2) only, so it never cuts a request.  The socket is non-blocking,
 * because another process may have taken the connection that ppoll has seen.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static volatile sig_atomic_t draining;

static void drain(int number) { draining = number; }

static void answer(int connection) {
    char request[4096] = "", body[64], response[256];
    size_t size = 0;
    while (!strstr(request, "\r\n\r\n") && size < sizeof request - 1) {
        ssize_t more = read(connection, request + size, sizeof request - 1 - size);
        if (more <= 0) return;
        size += more;
        request[size] = 0;
    }
    int length = snprintf(body, sizeof body, "%s %d\n", getenv("OVERSEER_GENERATION"), getpid());
    int total = snprintf(response, sizeof response,
                         "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
                         length, body);
    if (write(connection, response, total) != total) perror("write");
}

int main(void) {
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    if (!pid || atoi(pid) != getpid() || !count || atoi(count) != 1) {
        fprintf(stderr, "LISTEN_PID or LISTEN_FDS is not meant for this process\n");
        return 2;
    }
    sigset_t term, none;
    sigemptyset(&none);
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = drain}, NULL);
    signal(SIGPIPE, SIG_IGN);
    fcntl(3, F_SETFL, fcntl(3, F_GETFL) | O_NONBLOCK);
    struct pollfd listener = {.fd = 3, .events = POLLIN};
    while (!draining) {
        if (ppoll(&listener, 1, NULL, &none) <= 0) continue;
        int connection = accept4(3, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0) continue;
        answer(connection);
        close(connection);
    }
    return 0;
}
