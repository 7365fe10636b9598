/* How the program ends, and what it says then. */
#ifndef AV1PART_FAILURE_H_
#define AV1PART_FAILURE_H_

enum { CANNOT_WRITE = 1, BAD_USAGE = 2, BAD_INPUT = 3, CANNOT_PREDICT = 4, LIBAOM_FAILED = 70 };

/* Says what is wrong with a file or part, on stderr; a second line of the message is a hint. Returns the status. */
int fail(int status, const char *subject, const char *message);

#endif /* AV1PART_FAILURE_H_ */
