/* A CUDA runtime without a GPU, for ONNX Runtime's CUDA provider. build.py compiles it into libcudart.so.13.

   Device memory is the host's, copies copy, kernels do nothing. So all of ONNX Runtime's own code runs: placement,
   binding, streams, errors. What a kernel would compute is what the memory held before, zeros at first.

   STUB_CUDA_DEVICES: how many GPUs there are (1). STUB_CUDA_SM: their compute capability (90).
   STUB_CUDA_ANSWERS: numbers that the next copies of 4 bytes from the device give, in turn: what a graph reads back to
   learn a shape, as NonZero does.

   The structs' layouts are those of CUDA 13, by offsets: the stub must build where no CUDA headers are. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { SUCCESS = 0, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101 };
enum { PAGEABLE, PINNED, DEVICE }; /* cudaMemoryType */
typedef struct { unsigned x, y, z; } Dim3;
static const size_t MEMORY = (size_t)139 << 30;

/* --- memory: every allocation is a mapping of its own, which takes no room until it is written to */

typedef struct Block { char *start; size_t size; int kind, device; struct Block *next; } Block;
static Block *blocks;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int device;
static __thread int last_error;

static int allocate(void **pointer, size_t size, int kind) {
  size_t room = (size + 8191) / 4096 * 4096; /* and a page more: vector loads read past the end */
  *pointer = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (*pointer == MAP_FAILED) { *pointer = NULL; return last_error = OUT_OF_MEMORY; }
  Block *block = malloc(sizeof *block);
  pthread_mutex_lock(&lock);
  *block = (Block){*pointer, room, kind, device, blocks};
  blocks = block;
  pthread_mutex_unlock(&lock);
  return SUCCESS;
}
static int release(void *pointer) {
  pthread_mutex_lock(&lock);
  for (Block **at = &blocks; *at; at = &(*at)->next)
    if ((*at)->start == pointer) {
      Block *gone = *at;
      *at = gone->next;
      munmap(gone->start, gone->size);
      free(gone);
      break;
    }
  pthread_mutex_unlock(&lock);
  return SUCCESS;
}
static Block block_of(const void *pointer) { /* of kind PAGEABLE where it is not ours */
  Block found = {0};
  pthread_mutex_lock(&lock);
  for (Block *block = blocks; block; block = block->next)
    if ((char *)pointer >= block->start && (char *)pointer < block->start + block->size) { found = *block; break; }
  pthread_mutex_unlock(&lock);
  return found;
}
int cudaMalloc(void **p, size_t n) { return allocate(p, n, DEVICE); }
int cudaMallocFromPoolAsync(void **p, size_t n, void *pool, void *stream) { return allocate(p, n, DEVICE); }
int cudaMallocHost(void **p, size_t n) { return allocate(p, n, PINNED); }
int cudaHostAlloc(void **p, size_t n, unsigned flags) { return allocate(p, n, PINNED); }
int cudaFree(void *p) { return release(p); }
int cudaFreeAsync(void *p, void *stream) { return release(p); }
int cudaFreeHost(void *p) { return release(p); }
int cudaMemGetInfo(size_t *unused, size_t *all) { *all = MEMORY; *unused = MEMORY; return SUCCESS; }
int cudaPointerGetAttributes(char *attributes, const void *pointer) {
  Block block = block_of(pointer);
  memset(attributes, 0, 88);
  *(int *)attributes = block.kind;
  *(int *)(attributes + 4) = block.kind ? block.device : -2; /* cudaInvalidDeviceId */
  *(const void **)(attributes + 8) = block.kind ? pointer : NULL;
  *(const void **)(attributes + 16) = block.kind == PINNED ? pointer : NULL;
  return SUCCESS;
}

/* --- copies */

static int answer(int *value) { /* the next of STUB_CUDA_ANSWERS */
  static char *rest;
  static int started;
  pthread_mutex_lock(&lock);
  if (!started++) rest = getenv("STUB_CUDA_ANSWERS");
  char *end = rest;
  long next = rest ? strtol(rest, &end, 10) : 0;
  int there = end != rest;
  rest = there && *end ? end + 1 : there ? end : rest;
  pthread_mutex_unlock(&lock);
  if (there) *value = next;
  return there;
}
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *stream) {
  if (n) memmove(to, from, n);
  if (n == sizeof(int) && kind == 2) answer(to); /* cudaMemcpyDeviceToHost */
  return SUCCESS;
}
int cudaMemcpy(void *to, const void *from, size_t n, int kind) { return cudaMemcpyAsync(to, from, n, kind, NULL); }
int cudaMemcpy2DAsync(char *to, size_t to_pitch, const char *from, size_t from_pitch, size_t width, size_t height, int kind, void *stream) {
  for (size_t row = 0; row < height; row++) memmove(to + row * to_pitch, from + row * from_pitch, width);
  return SUCCESS;
}
int cudaMemcpyFromSymbol(void *to, const void *symbol, size_t n, size_t offset, int kind) { memset(to, 0, n); return SUCCESS; }
int cudaMemset(void *to, int value, size_t n) { memset(to, value, n); return SUCCESS; }
int cudaMemsetAsync(void *to, int value, size_t n, void *stream) { return cudaMemset(to, value, n); }

/* --- devices */

static int number(const char *name, int otherwise) { const char *value = getenv(name); return value && *value ? atoi(value) : otherwise; }
static int devices(void) { /* CUDA_VISIBLE_DEVICES lists some of them, up to the first that is not there */
  int all = number("STUB_CUDA_DEVICES", 1), shown = 0;
  const char *list = getenv("CUDA_VISIBLE_DEVICES");
  if (!list) return all;
  for (char *end; *list; list = *end ? end + 1 : end) {
    long one = strtol(list, &end, 10);
    if (end == list || one < 0 || one >= all) break;
    shown++;
  }
  return shown;
}
int cudaGetDeviceCount(int *n) { *n = devices(); return *n ? SUCCESS : (last_error = NO_DEVICE); }
int cudaGetDevice(int *d) { *d = device; return SUCCESS; }
int cudaSetDevice(int d) { if (d < 0 || d >= devices()) return last_error = INVALID_DEVICE; device = d; return SUCCESS; }
int cudaDriverGetVersion(int *v) { *v = 13000; return SUCCESS; }
int cudaRuntimeGetVersion(int *v) { *v = 13000; return SUCCESS; }
int cudaGetDeviceProperties(char *properties, int d) {
  if (d < 0 || d >= devices()) return last_error = INVALID_DEVICE;
  int sm = number("STUB_CUDA_SM", 90);
  memset(properties, 0, 1008);
  strcpy(properties, "Stub GPU");
  properties[256] = d + 1; /* uuid */
#define PUT(type, offset, value) *(type *)(properties + offset) = value;
  PUT(size_t, 288, MEMORY) PUT(size_t, 296, 49152) /* shared memory of a block */ PUT(int, 304, 65536) PUT(int, 308, 32) /* warp */
  PUT(size_t, 312, 2147483647) PUT(int, 320, 1024) PUT(int, 324, 1024) PUT(int, 328, 1024) PUT(int, 332, 64)
  PUT(int, 336, 2147483647) PUT(int, 340, 65535) PUT(int, 344, 65535) PUT(size_t, 352, 65536)
  PUT(int, 360, sm / 10) PUT(int, 364, sm % 10) PUT(size_t, 368, 512) PUT(int, 384, 132) /* multiprocessors */
  PUT(int, 392, 1) PUT(int, 560, 1) PUT(int, 584, 3) PUT(int, 588, 1) PUT(int, 592, 6144) PUT(int, 596, 62914560) /* L2 */
  PUT(int, 604, 2048) PUT(size_t, 624, 233472) PUT(int, 632, 65536) PUT(int, 636, 1) PUT(size_t, 672, 232448) PUT(int, 688, 32)
  return SUCCESS;
}
int cudaDeviceGetAttribute(int *value, int attribute, int d) {
  char p[1008];
  int error = cudaGetDeviceProperties(p, d);
  if (error) return error;
  /* cudaDevAttr…: threads of a block, grid, shared memory, warp, multiprocessors, L2, threads and shared memory of a
     multiprocessor, compute capability, shared memory on request */
  static const struct { int attribute, offset; } table[] = {{1, 320}, {5, 336}, {6, 340}, {8, 296}, {10, 308}, {16, 384}, {38, 596}, {39, 604}, {75, 360}, {76, 364}, {81, 624}, {97, 672}};
  *value = 0;
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)
    if (table[i].attribute == attribute) *value = *(int *)(p + table[i].offset);
  return SUCCESS;
}
int cudaGetLastError(void) { int error = last_error; last_error = SUCCESS; return error; }
int cudaPeekAtLastError(void) { return last_error; }
const char *cudaGetErrorName(int e) { return e == OUT_OF_MEMORY ? "cudaErrorMemoryAllocation" : e ? "an error of the stub" : "cudaSuccess"; }
const char *cudaGetErrorString(int e) { return e == OUT_OF_MEMORY ? "out of memory" : e == NO_DEVICE ? "no CUDA-capable device is detected" : e ? "invalid device ordinal" : "no error"; }

/* --- streams, events: what was asked for is done at once */

static void *handle(void) { return calloc(1, 256); }
int cudaStreamCreate(void **s) { *s = handle(); return SUCCESS; }
int cudaStreamCreateWithFlags(void **s, unsigned flags) { *s = handle(); return SUCCESS; }
int cudaEventCreate(void **e) { *e = handle(); return SUCCESS; }
int cudaEventCreateWithFlags(void **e, unsigned flags) { *e = handle(); return SUCCESS; }
int cudaEventElapsedTime(float *ms, void *a, void *b) { *ms = 0.01f; return SUCCESS; }
int cudaMemPoolCreate(void **p, const void *properties) { *p = handle(); return SUCCESS; }
int cudaMemPoolGetAttribute(void *p, int attribute, uint64_t *value) { *value = 0; return SUCCESS; }
int cudaStreamIsCapturing(void *s, int *capturing) { *capturing = 0; return SUCCESS; }
int cudaStreamEndCapture(void *s, void **graph) { *graph = handle(); return SUCCESS; }
int cudaGraphInstantiate(void **executable, void *graph, unsigned long long flags) { *executable = handle(); return SUCCESS; }
int cudaLaunchHostFunc(void *stream, void (*function)(void *), void *data) { function(data); return SUCCESS; }

/* --- kernels: launched, and refused where a GPU would */

static int launch(Dim3 grid, Dim3 block, size_t shared) {
  uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z, threads = (uint64_t)block.x * block.y * block.z;
  int fits = blocks && threads && threads <= 1024 && block.z <= 64 && grid.y <= 65535 && grid.z <= 65535 && shared <= 232448;
  return fits ? SUCCESS : (last_error = 9); /* cudaErrorInvalidConfiguration */
}
typedef struct { Dim3 grid, block; size_t shared; void *stream; } Configuration; /* of kernel<<<…>>>, from push to pop */
static __thread Configuration configurations[64];
static __thread int depth;
unsigned __cudaPushCallConfiguration(Dim3 grid, Dim3 block, size_t shared, void *stream) {
  if (depth < 64) configurations[depth] = (Configuration){grid, block, shared, stream};
  depth++;
  return 0;
}
int __cudaPopCallConfiguration(Dim3 *grid, Dim3 *block, size_t *shared, void **stream) {
  if (--depth < 64) { *grid = configurations[depth].grid; *block = configurations[depth].block; *shared = configurations[depth].shared; *stream = configurations[depth].stream; }
  return SUCCESS;
}
void **__cudaRegisterFatBinary(void *binary) { return handle(); }
int __cudaGetKernel(void **kernel, const void *function) { *kernel = (void *)function; return SUCCESS; }
int __cudaLaunchKernel(void *k, Dim3 grid, Dim3 block, void **arguments, size_t shared, void *stream) { return launch(grid, block, shared); }
int cudaLaunchKernel(const void *f, Dim3 grid, Dim3 block, void **arguments, size_t shared, void *stream) { return launch(grid, block, shared); }
int cudaLaunchCooperativeKernel(const void *f, Dim3 grid, Dim3 block, void **arguments, size_t shared, void *stream) { return launch(grid, block, shared); }
int cudaLaunchKernelExC(const struct { Dim3 grid, block; size_t shared; } *c, const void *f, void **arguments) { return launch(c->grid, c->block, c->shared); }
int cudaLibraryLoadData(void **library, const void *code, void *a, void *b, unsigned c, void *d, void *e, unsigned f) { *library = handle(); return SUCCESS; }
int cudaLibraryGetKernel(void **kernel, void *library, const char *name) { *kernel = handle(); return SUCCESS; }
int cudaFuncGetAttributes(char *attributes, const void *function) {
  int sm = number("STUB_CUDA_SM", 90);
  memset(attributes, 0, 144);
  *(int *)(attributes + 24) = 1024; /* threads of a block */
  *(int *)(attributes + 28) = 32;   /* registers */
  *(int *)(attributes + 32) = *(int *)(attributes + 36) = sm;
  *(int *)(attributes + 44) = 232448; /* dynamic shared memory */
  return SUCCESS;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *function, int size, size_t shared, unsigned flags) { *n = 2; return SUCCESS; }
int cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, unsigned long long flags, int *found) {
  *function = (void *)cudaPeekAtLastError; /* something to call that does nothing */
  if (found) *found = 0;
  return SUCCESS;
}
