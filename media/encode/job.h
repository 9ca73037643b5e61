// One picture's work for the encoder's thread (worker.go): Go fills it in, C does
// it. What it points to stays in place until Close.
#ifndef PERIGEE_JOB_H
#define PERIGEE_JOB_H

#include <stdint.h>
#include <libavcodec/avcodec.h>

// After how many pictures without a change libvpx may pass over a macroblock, all
// of them encoded with a quantiser (0 to 63) of PERIGEE_SHARP or less: it then
// copies it as it is, so it must be as sharp as it gets.
#define PERIGEE_SETTLED 10
#define PERIGEE_SHARP 14

struct perigee_job {
	AVCodecContext *cc;
	AVFrame *frame;
	AVPacket *packet;
	void *vpx; // libvpx's context; 0 if this is another encoder

	// The picture's macroblocks, as blocks.go has them.
	uint8_t *touched, *age;
	int cols, rows;

	// To convert.
	const uint8_t *bgra;
	int stride;
	uint8_t *scratch;
	int all; // every touched one counts as changed

	// To encode.
	int (*hints[2])(struct perigee_job *); // what tells the encoder; 0: nothing
	int fresh;                             // macroblocks of age 0
	int64_t count;                         // pictures before this one
	uint8_t *map;                          // libvpx's, of macroblocks
	int sharp;                             // pictures since libvpx last coded one coarsely
	int quantiser;                         // of the picture just encoded, -1 = not known:
	                                       // 0 to 51 of H.264, 0 to 63 of libvpx
};

#endif
