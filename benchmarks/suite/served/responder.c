/* The plain app for libfcgi, with eight threads: responder SOCKET. It is no WSGI server; it shows
 * what the protocol costs in C. */
#include <fcgiapp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define HEAD "Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"

static char zeros[102400];
static int listening;

static void answer(FCGX_Request *request)
{
    const char *path = FCGX_GetParam("PATH_INFO", request->envp);
    if (!strcmp(path, "/body")) {
        FCGX_FPrintF(request->out, HEAD, 102400);
        FCGX_PutStr(zeros, sizeof zeros, request->out);
        return;
    }
    if (!strcmp(path, "/stream")) {
        FCGX_FPrintF(request->out, HEAD, 10485760);
        for (int i = 0; i < 160; i++)
            FCGX_PutStr(zeros, 65536, request->out);
        return;
    }
    if (!strcmp(path, "/upload")) {
        int left = atoi(FCGX_GetParam("CONTENT_LENGTH", request->envp));
        char *body = malloc(left);
        int got = FCGX_GetStr(body, left, request->in);
        free(body);
        if (got != left) {
            FCGX_FPrintF(request->out, "Status: 400 Bad Request\r\n\r\n");
            return;
        }
    }
    if (!strcmp(path, "/sleep")) {
        struct timespec pause = {0, 50000000};
        nanosleep(&pause, NULL);
    }
    FCGX_FPrintF(request->out, HEAD "Hello, world!\n", 14);
}

static void *serve(void *unused)
{
    FCGX_Request request;
    FCGX_InitRequest(&request, listening, 0);
    while (FCGX_Accept_r(&request) == 0) {
        answer(&request);
        FCGX_Finish_r(&request);
    }
    return unused;
}

int main(int argc, char **argv)
{
    int threads = argc > 2 ? atoi(argv[2]) : 8;
    FCGX_Init();
    listening = FCGX_OpenSocket(argv[1], 1024);
    for (int i = 1; i < threads; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, serve, NULL);
    }
    serve(NULL);
    return 0;
}
