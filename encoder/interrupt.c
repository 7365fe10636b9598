#include "interrupt.h"

#include <signal.h>
#include <stddef.h>
#include <unistd.h>

enum { MOST_FILES = 4, INTERRUPTED = 130 };

/* Read by the handler, which may run in any thread and at any time. */
static const char *volatile files[MOST_FILES];
static volatile sig_atomic_t process, holds, waits;

static void stop(void)
{
    for (int i = 0; i < MOST_FILES; i++)
        if (files[i])
            unlink(files[i]);
    if (process)
        kill((pid_t)process, SIGTERM);
    _exit(INTERRUPTED);
}

static void on_signal(int number)
{
    (void)number;
    if (holds)
        waits = 1;
    else
        stop();
}

void interrupt_catch(void)
{
    static const int caught[] = {SIGTERM, SIGINT, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal}, before;
    sigfillset(&action.sa_mask);
    for (size_t i = 0; i < sizeof(caught) / sizeof(*caught); i++)
        /* nohup means that it is to go on */
        if (caught[i] != SIGHUP || sigaction(SIGHUP, NULL, &before) || before.sa_handler != SIG_IGN)
            sigaction(caught[i], &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static void replace(const char *path, const char *by)
{
    for (int i = 0; i < MOST_FILES; i++)
        if (files[i] == path) {
            files[i] = by;
            return;
        }
}

void interrupt_removes(const char *path)
{
    replace(NULL, path);
}

void interrupt_spares(const char *path)
{
    replace(path, NULL);
}

void interrupt_ends(pid_t other)
{
    process = (sig_atomic_t)other;
}

void interrupt_hold(void)
{
    holds = 1;
}

void interrupt_release(void)
{
    holds = 0;
    if (waits)
        stop();
}
