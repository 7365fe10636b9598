/* What SIGTERM, Ctrl-C and a closed terminal do: what is half-written is removed, and the program ends with 130. */
#ifndef AV1PART_INTERRUPT_H_
#define AV1PART_INTERRUPT_H_

#include <sys/types.h>

/* From here on signals are caught. A reader that went away is no signal but an error of writing. */
void interrupt_catch(void);

/* A file that has to go if the program is interrupted; it stays the caller's text. There is room for four. */
void interrupt_removes(const char *path);

/* No more: it is whole, or gone. */
void interrupt_spares(const char *path);

/* A process that has to end too; 0 for none. */
void interrupt_ends(pid_t process);

/* Between these two a signal waits, such as while two files take their places. */
void interrupt_hold(void);
void interrupt_release(void);

#endif /* AV1PART_INTERRUPT_H_ */
