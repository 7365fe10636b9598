/* Clocks. */
#ifndef AV1PART_SECONDS_H_
#define AV1PART_SECONDS_H_

/* CPU seconds of this process so far, all threads. */
double cpu_seconds(void);

/* Seconds of the wall since some moment. */
double wall_seconds(void);

#endif /* AV1PART_SECONDS_H_ */
