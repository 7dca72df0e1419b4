/* cv2.resize(image, ..., interpolation=cv2.INTER_LINEAR) of uint8 RGB, bit for bit, in half the time.

   Where a JPEG is decoded by libjpeg-turbo, OpenCV's resize is what takes longest besides: it treats three channels much like any
   number of them. This does the same arithmetic (modules/imgproc/src/resize.cpp: weights of 11 bits, rows first, truncated where
   OpenCV truncates) with AVX2, four pixels at a time. Where it cannot be compiled or the processor has no AVX2, OpenCV itself is
   used, and no pixel differs. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define AVX2 __attribute__((target("avx2")))

enum { CHANNELS = 3, GROUP = 4 /* pixels of a step */, LOAD = 8 /* bytes that a step reads from where a pixel begins */ };
enum { MOST = INT32_MAX / 16 /* rows or columns: 16 bytes a column are the most that is taken, and no size overflows 32 bits */ };

/* Between which two source pixels (or rows) a target lies, and what each of them weighs, of 2048. */
typedef struct {
    Py_ssize_t first;
    int16_t weights[2];
} Place;

static Place place(Py_ssize_t target, double scale)
{
    float centre = (float)((target + 0.5) * scale - 0.5);
    float first = floorf(centre);
    float share = centre - first;
    return (Place){(Py_ssize_t)first, {(int16_t)lrintf((1.f - share) * 2048.f), (int16_t)lrintf(share * 2048.f)}};
}

static Py_ssize_t clip(Py_ssize_t value, Py_ssize_t last)
{
    return value < 0 ? 0 : value > last ? last : value;
}

/* One source row at the target's width: int16, levels times 128. Goes on to the end of a GROUP, in `starts` and `weights` too; reads
   LOAD bytes from each start, and writes two words behind the last group. */
AVX2 static void across(const uint8_t *source, const int32_t *starts, const __m256i *weights, int16_t *target, Py_ssize_t width)
{
    /* From red, green, blue of two neighbours to words: red of both, green of both, blue of both. */
    const __m256i pair = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
                                          0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
    /* From two pixels of four words to two of three. */
    const __m256i join = _mm256_setr_epi8(0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, -1, -1, -1, -1,
                                          0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, -1, -1, -1, -1);
    for (Py_ssize_t x = 0; x < width; x += GROUP) {
        __m128i p0 = _mm_loadl_epi64((const void *)(source + starts[x])), p1 = _mm_loadl_epi64((const void *)(source + starts[x + 1]));
        __m128i p2 = _mm_loadl_epi64((const void *)(source + starts[x + 2])), p3 = _mm_loadl_epi64((const void *)(source + starts[x + 3]));
        __m256i even = _mm256_shuffle_epi8(_mm256_inserti128_si256(_mm256_castsi128_si256(p0), p2, 1), pair);
        __m256i odd = _mm256_shuffle_epi8(_mm256_inserti128_si256(_mm256_castsi128_si256(p1), p3, 1), pair);
        even = _mm256_srai_epi32(_mm256_madd_epi16(even, _mm256_loadu_si256(weights++)), 4);
        odd = _mm256_srai_epi32(_mm256_madd_epi16(odd, _mm256_loadu_si256(weights++)), 4);
        __m256i words = _mm256_shuffle_epi8(_mm256_packs_epi32(even, odd), join);
        _mm_storeu_si128((void *)(target + CHANNELS * x), _mm256_castsi256_si128(words));
        _mm_storeu_si128((void *)(target + CHANNELS * (x + 2)), _mm256_extracti128_si256(words, 1));
    }
}

/* Two rows of `across` to one of levels. */
AVX2 static void down(const int16_t *upper, const int16_t *lower, const int16_t *weights, uint8_t *target, Py_ssize_t length)
{
    const __m256i first = _mm256_set1_epi16(weights[0]), second = _mm256_set1_epi16(weights[1]), half = _mm256_set1_epi16(2);
    Py_ssize_t i = 0;
    for (; i + 32 <= length; i += 32) {
        __m256i words[2];
        for (int n = 0; n < 2; n++) {
            __m256i a = _mm256_mulhi_epi16(_mm256_loadu_si256((const void *)(upper + i + 16 * n)), first);
            __m256i b = _mm256_mulhi_epi16(_mm256_loadu_si256((const void *)(lower + i + 16 * n)), second);
            words[n] = _mm256_srai_epi16(_mm256_add_epi16(_mm256_add_epi16(a, b), half), 2);
        }
        __m256i levels = _mm256_permute4x64_epi64(_mm256_packus_epi16(words[0], words[1]), 0xd8);
        _mm256_storeu_si256((void *)(target + i), levels);
    }
    for (; i < length; i++)
        target[i] = (uint8_t)((((upper[i] * weights[0]) >> 16) + ((lower[i] * weights[1]) >> 16) + 2) >> 2);
}

/* What one resize needs besides: where each target column begins, its weights, two finished rows, and the last source row. */
typedef struct {
    int32_t *starts;
    int16_t *weights, *rows[2];
    uint8_t *last;
} Scratch;

static int take(Scratch *scratch, Py_ssize_t source_width, Py_ssize_t width)
{
    Py_ssize_t groups = (width + GROUP - 1) / GROUP, row = CHANNELS * GROUP * groups + 2;
    scratch->starts = calloc(GROUP * groups, sizeof(int32_t));
    scratch->weights = calloc(GROUP * groups, 8 * sizeof(int16_t));
    scratch->rows[0] = malloc(row * sizeof(int16_t));
    scratch->rows[1] = malloc(row * sizeof(int16_t));
    scratch->last = calloc(CHANNELS * source_width + LOAD, 1);
    return scratch->starts && scratch->weights && scratch->rows[0] && scratch->rows[1] && scratch->last;
}

static void give_back(Scratch *scratch)
{
    free(scratch->starts);
    free(scratch->weights);
    free(scratch->rows[0]);
    free(scratch->rows[1]);
    free(scratch->last);
}

static void columns(Scratch *scratch, Py_ssize_t source_width, Py_ssize_t width)
{
    double scale = 1 / ((double)width / (double)source_width);
    for (Py_ssize_t x = 0; x < width; x++) {
        Place at = place(x, scale);
        if (at.first < 0 || at.first >= source_width - 1) /* Beyond the middle of an outer pixel: that pixel. */
            at = (Place){clip(at.first, source_width - 1), {2048, 0}};
        scratch->starts[x] = (int32_t)(CHANNELS * at.first);
        /* A step holds pixels 0 and 2 in one register, 1 and 3 in the other. */
        Py_ssize_t slot = x / GROUP * GROUP + (Py_ssize_t[]){0, 2, 1, 3}[x % GROUP];
        for (int word = 0; word < 8; word++)
            scratch->weights[8 * slot + word] = at.weights[word % 2];
    }
}

static void resize(Scratch *scratch, const uint8_t *source, const Py_ssize_t *from, uint8_t *target, const Py_ssize_t *to)
{
    Py_ssize_t height = from[0], length = CHANNELS * from[1], length_out = CHANNELS * to[1];
    double scale = 1 / ((double)to[0] / (double)height);
    Py_ssize_t held[2] = {-1, -1};

    columns(scratch, from[1], to[1]);
    for (Py_ssize_t y = 0; y < to[0]; y++) {
        Place at = place(y, scale);
        if (held[0] != clip(at.first, height - 1)) { /* What was the lower row is often the next upper one. */
            int16_t *upper = scratch->rows[0];
            scratch->rows[0] = scratch->rows[1], scratch->rows[1] = upper;
            held[0] = held[1], held[1] = -1;
        }
        for (int n = 0; n < 2; n++) {
            Py_ssize_t wanted = clip(at.first + n, height - 1);
            if (held[n] == wanted)
                continue;
            const uint8_t *row = source + wanted * length;
            if ((height - wanted) * length < length - CHANNELS + LOAD) { /* A step would read beyond the image. */
                memcpy(scratch->last, row, length);
                row = scratch->last;
            }
            across(row, scratch->starts, (const void *)scratch->weights, scratch->rows[n], to[1]);
            held[n] = wanted;
        }
        down(scratch->rows[0], scratch->rows[1], at.weights, target + y * length_out, length_out);
    }
}

static int is_image(const Py_buffer *view)
{
    int bytes = view->format == NULL || strcmp(view->format, "B") == 0;
    return bytes && view->ndim == 3 && view->shape[2] == CHANNELS && view->shape[0] > 0 && view->shape[1] > 0
           && view->shape[0] <= MOST && view->shape[1] <= MOST;
}

static PyObject *py_resize(PyObject *module, PyObject *args)
{
    PyObject *objects[2], *result = NULL;
    Py_buffer source, target;
    (void)module;
    if (!PyArg_ParseTuple(args, "OO:resize", &objects[0], &objects[1]))
        return NULL;
    if (PyObject_GetBuffer(objects[0], &source, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0)
        return NULL;
    if (PyObject_GetBuffer(objects[1], &target, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE) < 0) {
        PyBuffer_Release(&source);
        return NULL;
    }
    if (!is_image(&source) || !is_image(&target)) {
        PyErr_Format(PyExc_ValueError, "resize(image, out) expects uint8 arrays of shape (height, width, 3), sides of 1 to %d", MOST);
    } else {
        Scratch scratch;
        int enough;
        Py_BEGIN_ALLOW_THREADS
        enough = take(&scratch, source.shape[1], target.shape[1]);
        if (enough)
            resize(&scratch, source.buf, source.shape, target.buf, target.shape);
        give_back(&scratch);
        Py_END_ALLOW_THREADS
        result = enough ? Py_NewRef(objects[1]) : PyErr_NoMemory();
    }
    PyBuffer_Release(&target);
    PyBuffer_Release(&source);
    return result;
}

static PyMethodDef methods[] = {
    {"resize", py_resize, METH_VARARGS, "resize(image, out) -> out, bilinear: uint8 arrays of shape (height, width, 3)."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_bilinear", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC PyInit__bilinear(void)
{
    if (!__builtin_cpu_supports("avx2")) {
        PyErr_SetString(PyExc_ImportError, "this processor has no AVX2");
        return NULL;
    }
    return PyModule_Create(&module);
}
