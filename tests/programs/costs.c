/* Prints what system calls cost: bind and listen once each (µs), another call and a spawn each many
 * times (ns, µs). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

int main(int argc, char **argv) {
    const int calls = 2000000, spawns = 200;
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0), ephemeral;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    double begun = now();
    if (bind(listener, (struct sockaddr *)&address, sizeof address)) return 1;
    double bound = now() - begun;
    begun = now();
    if (listen(listener, 16)) return 1;
    double listened = now() - begun;
    address.sin_port = 0;
    ephemeral = socket(AF_INET, SOCK_STREAM, 0);
    begun = now();
    if (bind(ephemeral, (struct sockaddr *)&address, sizeof address)) return 1;
    double elsewhere = now() - begun;
    begun = now();
    for (int i = 0; i < calls; i++) syscall(SYS_getppid);
    double call = (now() - begun) / calls;
    begun = now();
    for (int i = 0; i < spawns; i++) {
        if (!fork()) {
            execl("/bin/true", "true", NULL);
            _exit(1);
        }
        wait(NULL);
    }
    double spawn = (now() - begun) / spawns;
    printf("%f %f %f %f %f\n", bound / 1e3, listened / 1e3, elsewhere / 1e3, call, spawn / 1e3);
    fflush(stdout);
    if (argc > 2) return 0;
    pause();
}
