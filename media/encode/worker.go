package encode

/*
#cgo pkg-config: libavcodec vpx
#cgo LDFLAGS: -pthread
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <libavutil/intreadwrite.h>
#include <vpx/vp8cx.h>
#include <vpx/vpx_encoder.h>
#include "job.h"

// perigee_worker is a thread that calls work each time start is counted up, and
// then counts done up; it ends when work is null.
struct perigee_worker {
	pthread_t thread;
	int start, done;
	int (*work)(void *);
	void *with;
	int result;
};

static void *perigee_worker_run(void *p) {
	struct perigee_worker *w = p;
	for (;;) {
		uint64_t n;
		if (read(w->start, &n, sizeof n) < 0) {
			if (errno == EINTR)
				continue;
			return 0;
		}
		if (!w->work)
			return 0;
		w->result = w->work(w->with);
		n = 1;
		while (write(w->done, &n, sizeof n) < 0 && errno == EINTR)
			;
	}
}

// perigee_worker_new gives 0 if there are no more threads or descriptors.
static struct perigee_worker *perigee_worker_new(void) {
	struct perigee_worker *w = calloc(1, sizeof *w);
	if (!w)
		return 0;
	w->start = eventfd(0, EFD_CLOEXEC);
	w->done = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->start < 0 || w->done < 0 || pthread_create(&w->thread, 0, perigee_worker_run, w)) {
		close(w->start);
		close(w->done);
		free(w);
		return 0;
	}
	return w;
}

// perigee_worker_end leaves done to its owner.
static void perigee_worker_end(struct perigee_worker *w) {
	uint64_t n = 1;
	w->work = 0;
	while (write(w->start, &n, sizeof n) < 0 && errno == EINTR)
		;
	pthread_join(w->thread, 0);
	close(w->start);
	free(w);
}

// perigee_quantiser gives that of the picture just encoded; -1: nobody tells.
static int perigee_quantiser(struct perigee_job *j) {
	int q;
	if (j->vpx)
		return vpx_codec_control((vpx_codec_ctx_t *)j->vpx, VP8E_GET_LAST_QUANTIZER_64, &q) == VPX_CODEC_OK ? q : -1;
	size_t size = 0;
	const uint8_t *stats = av_packet_get_side_data(j->packet, AV_PKT_DATA_QUALITY_STATS, &size);
	return stats && size >= 4 ? (int)(AV_RL32(stats) / FF_QP2LAMBDA) : -1;
}

// perigee_encode tells the encoder what changed, gives it the picture and takes
// the packet.
int perigee_encode(struct perigee_job *j) {
	int err;
	for (int i = 0; i < 2; i++)
		if (j->hints[i] && (err = j->hints[i](j)) < 0)
			return err;
	if ((err = avcodec_send_frame(j->cc, j->frame)) < 0)
		return err;
	av_packet_unref(j->packet);
	// Each of our encoders gives the packet of the picture it was just given
	// (SVT-AV1 waits inside for it): none now is a fault, not a delay.
	if ((err = avcodec_receive_packet(j->cc, j->packet)) >= 0)
		j->quantiser = perigee_quantiser(j);
	return err;
}
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"github.com/asticode/go-astiav"
)

// worker is a thread of C's for the long calls. Go's scheduler takes a C call
// for a system call: its monitor thread wakes at the start and at the end of each
// and looks around every 20 µs between, which cost as much as the conversion. A
// goroutine that waits for a descriptor costs nothing.
type worker struct {
	c     *C.struct_perigee_worker
	start uintptr
	done  *os.File
	raw   syscall.RawConn
	count [8]byte // an eventfd's
	look  func(fd uintptr) bool
}

func newWorker() (*worker, error) {
	c := C.perigee_worker_new()
	if c == nil {
		return nil, errors.New("start encoder's thread: no more threads or descriptors")
	}
	w := &worker{c: c, start: uintptr(c.start), done: os.NewFile(uintptr(c.done), "encoder")}
	w.look = func(fd uintptr) bool {
		_, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&w.count)), uintptr(len(w.count)))
		return errno == 0
	}
	var err error
	if w.raw, err = w.done.SyscallConn(); err != nil {
		w.close()
		return nil, fmt.Errorf("start encoder's thread: %w", err)
	}
	return w, nil
}

// do runs a C function (int (*)(void *)) with memory of C's and gives its result.
func (w *worker) do(work, with unsafe.Pointer) (int, error) {
	w.c.work, w.c.with = (*[0]byte)(work), with
	one := uint64(1)
	if _, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, w.start, uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one)); errno != 0 {
		return 0, fmt.Errorf("wake encoder's thread: %w", errno)
	}
	if err := w.raw.Read(w.look); err != nil {
		return 0, fmt.Errorf("wait for encoder's thread: %w", err)
	}
	return int(w.c.result), nil
}

func (w *worker) close() {
	C.perigee_worker_end(w.c)
	_ = w.done.Close() // nothing was written to it
}

const vpxSettled = C.PERIGEE_SETTLED

// passes tells whether libvpx may pass over macroblocks of the next picture.
func (v *Video) passes() bool { return v.job.sharp >= vpxSettled }

// newJob gives the worker's job for a video whose frame and blocks are there; what
// it points to is held in place until freeJob.
func (v *Video) newJob() error {
	j := (*C.struct_perigee_job)(C.calloc(1, C.sizeof_struct_perigee_job))
	if j == nil {
		return errors.New("allocate job: out of memory")
	}
	v.job = j
	if j.packet = C.av_packet_alloc(); j.packet == nil {
		return errors.New("allocate packet: out of memory")
	}
	b := &v.blocks
	n := len(b.age)
	scratch, active := make([]byte, b.cols*blockSide*blockSide*3/2+blockSide), make([]byte, n) // a vector beyond its end is read
	for _, s := range [][]byte{b.age, b.touched, scratch, active} {
		v.pin.Pin(&s[0])
	}
	at := func(s []byte) *C.uint8_t { return (*C.uint8_t)(unsafe.Pointer(&s[0])) }
	j.frame, j.cols, j.rows = (*C.AVFrame)(v.frame.UnsafePointer()), C.int(b.cols), C.int(b.rows)
	j.touched, j.age, j.scratch, j._map = at(b.touched), at(b.age), at(scratch), at(active)
	for i, h := range v.recipe.hints {
		j.hints[i] = (*[0]byte)(h)
	}
	return nil
}

func (v *Video) freeJob() {
	if v.job != nil {
		C.av_packet_free(&v.job.packet)
		C.free(unsafe.Pointer(v.job))
		v.job = nil
	}
	v.pin.Unpin()
}

// send encodes a picture: v.frame, or what of it is in a device's memory.
func (v *Video) send(frame *astiav.Frame) (Packet, error) {
	j := v.job
	j.fresh, j.count = C.int(v.blocks.fresh), C.int64_t(v.count)
	j.frame = (*C.AVFrame)(frame.UnsafePointer())
	code, err := v.worker.do(C.perigee_encode, unsafe.Pointer(j))
	j.frame = (*C.AVFrame)(v.frame.UnsafePointer())
	if err != nil {
		return Packet{}, err
	}
	if code < 0 {
		return Packet{}, astiav.Error(code)
	}
	v.weigh(int(j.packet.size), int(j.quantiser))
	return Packet{
		Data: append([]byte(nil), unsafe.Slice((*byte)(j.packet.data), j.packet.size)...),
		Key:  j.packet.flags&C.AV_PKT_FLAG_KEY != 0,
	}, nil
}
