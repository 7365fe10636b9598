/* The lines of Y4M files. tests/y4m_headers.py lists headers that are read and headers that are refused; the Python
 * reader (frames/planar.py) makes the same of them. */
#ifndef AV1PART_Y4M_H_
#define AV1PART_Y4M_H_

#include <stdio.h>

#include "frame_input.h"

#define Y4M_LONGEST_LINE 65535 /* bytes without the newline */

/* Reads the header of a file that stands at its start. Fills in *format; rate and scale stay as they are if the header
 * states none. Returns NULL, or what is wrong, for people. */
const char *y4m_read_header(FILE *file, FrameFormat *format);

/* Reads the line before a frame. Returns 1, 0 at the end of the file, or -1 if there is something else. */
int y4m_read_frame_line(FILE *file);

#endif /* AV1PART_Y4M_H_ */
