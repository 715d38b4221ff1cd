package ort

/*
#include <signal.h>
#include <string.h>

#define SIGNALS 65

typedef struct { struct sigaction old[SIGNALS]; } handlers;

static void save_handlers(handlers *h) {
	for (int s = 1; s < SIGNALS; s++)
		if (sigaction(s, NULL, &h->old[s]) != 0) memset(&h->old[s], 0, sizeof h->old[s]);
}

// restore_handlers puts back every handler that changed and returns how many did.
static int restore_handlers(const handlers *h) {
	int changed = 0;
	for (int s = 1; s < SIGNALS; s++) {
		struct sigaction now;
		if (s == SIGKILL || s == SIGSTOP || sigaction(s, NULL, &now) != 0) continue;
		if (now.sa_sigaction == h->old[s].sa_sigaction && now.sa_flags == h->old[s].sa_flags) continue;
		if (sigaction(s, &h->old[s], NULL) == 0) changed++;
	}
	return changed;
}

static void planted_handler(int s) { (void)s; }

static int plant_handler(int s) {
	struct sigaction a;
	memset(&a, 0, sizeof a);
	a.sa_handler = planted_handler;
	return sigaction(s, &a, NULL);
}
*/
import "C"

// keepSignalHandlers runs f and puts back the signal handlers that f's native code replaced: the CUDA driver
// installs its own, without SA_ONSTACK, and the next nil dereference in Go would then kill the process. It
// returns how many were put back.
func keepSignalHandlers(f func()) int {
	var h C.handlers
	C.save_handlers(&h)
	f()
	return int(C.restore_handlers(&h))
}

// plantSignalHandler does what CUDA does, for the test.
func plantSignalHandler(signal int) bool { return C.plant_handler(C.int(signal)) == 0 }
