// av1part.h on a GPU, or on a CPU by other code: the same functions over an AOTInductor package, which
// `cli.py export --package cuda` writes. Link this object in place of av1part.o, with LibTorch of the package's release.
//
// What differs: a model is a file alone; samples are of 8 bit; PyTorch allocates memory of its own within a call; calls
// on one model wait for each other; opening a model for a GPU turns TF32 off for the whole process. Messages of
// PyTorch's own go nowhere: a package that it refuses is AV1PART_E_FOREIGN, and so is one whose model sees a border
// around its blocks.
#include "av1part_plane.h"

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

constexpr size_t BATCH = 16384;  // blocks handed to PyTorch at once
constexpr size_t SCRATCH = BATCH * (SAMPLES + sizeof(int32_t));

}  // namespace

struct av1part_model {
    std::unique_ptr<torch::inductor::AOTIModelPackageLoader> loader;
    std::unordered_map<std::string, std::string> about;
    torch::Device device = torch::kCPU;
    std::mutex running;
};

namespace {

int open_package(av1part_model &model, const char *path)
{
    model.loader = std::make_unique<torch::inductor::AOTIModelPackageLoader>(path);
    model.about = model.loader->get_metadata();
    const auto side = model.about.find("side");
    if (side != model.about.end() && side->second != std::to_string(AV1PART_BLOCK))
        return AV1PART_E_FOREIGN; /* a model that sees a border around its blocks */
    const auto device = model.about.find("AOTI_DEVICE_KEY");
    if (device != model.about.end() && device->second == "cuda") {
        model.device = torch::Device(torch::kCUDA, 0);
        // A package calls cuDNN and cuBLAS under this process's settings, and TF32 is no float32.
        at::globalContext().setAllowTF32CuDNN(false);
        at::globalContext().setAllowTF32CuBLAS(false);
    }
    return 0;
}

// A block's samples as bytes; returns the samples or'ed together.
unsigned fill_bytes(const source &from, size_t block, uint8_t *bytes)
{
    const size_t top = block / from.columns * AV1PART_BLOCK, left = block % from.columns * AV1PART_BLOCK;
    if (from.bytes == 1 && top + AV1PART_BLOCK <= from.height && left + AV1PART_BLOCK <= from.width) {
        const unsigned char *row = from.samples + static_cast<ptrdiff_t>(top) * from.stride + left;
        for (int y = 0; y < AV1PART_BLOCK; y++, row += from.stride)
            std::memcpy(bytes + y * AV1PART_BLOCK, row, AV1PART_BLOCK);
        return 0;
    }
    float samples[SAMPLES];
    const unsigned seen = fill(&from, block, samples, 1);
    for (size_t k = 0; k < SAMPLES; k++)
        bytes[k] = static_cast<uint8_t>(samples[k]);
    return seen;
}

int predict(av1part_model &model, const source &from, const answer &to, void *scratch, size_t scratch_size)
{
    if (!scratch || reinterpret_cast<uintptr_t>(scratch) % AV1PART_SCRATCH_ALIGN)
        return AV1PART_E_INVALID;
    if (scratch_size < SCRATCH)
        return AV1PART_E_MEMORY;
    if (from.depth != 8)
        return AV1PART_E_MISSING;
    auto *samples = static_cast<uint8_t *>(scratch);
    auto *qindex = reinterpret_cast<int32_t *>(samples + BATCH * SAMPLES);
    const torch::InferenceMode no_gradients;
    for (size_t done = 0; done < from.count; done += BATCH) {
        const size_t count = std::min(BATCH, from.count - done);
        unsigned seen = 0;
        for (size_t i = 0; i < count; i++) {
            seen |= fill_bytes(from, done + i, samples + i * SAMPLES);
            qindex[i] = from.qindex[(done + i) * from.qindex_step];
        }
        if (seen >> 8)
            return AV1PART_E_SAMPLE;
        const auto rows = static_cast<int64_t>(count);
        const std::vector<at::Tensor> given = {
            torch::from_blob(samples, {rows, AV1PART_BLOCK, AV1PART_BLOCK}, torch::kUInt8).to(model.device),
            torch::from_blob(qindex, {rows}, torch::kInt32).to(model.device)};
        at::Tensor logits;
        {
            const std::lock_guard<std::mutex> alone(model.running);
            logits = model.loader->run(given).at(0).to(torch::kCPU, torch::kFloat32).contiguous();
        }
        if (logits.dim() != 2 || logits.size(0) != rows || logits.size(1) != AV1PART_LOGITS)
            return AV1PART_E_FOREIGN;
        for (size_t i = 0; i < count; i++)
            answer_block(&to, &from, done + i, logits.data_ptr<float>() + i * AV1PART_LOGITS, 1);
    }
    return 0;
}

// No exception leaves the library.
template <typename Call> int guarded(int otherwise, Call call)
{
    try {
        return call();
    } catch (const std::bad_alloc &) {
        return AV1PART_E_MEMORY;
    } catch (const std::exception &) {
        return otherwise;
    }
}

}  // namespace

extern "C" {

const char *av1part_message(int code)
{
    return message_of(code);
}

int av1part_open_file(av1part_model **model, const char *path)
{
    if (!model || !path)
        return AV1PART_E_INVALID;
    *model = nullptr;
    FILE *file = std::fopen(path, "rb");
    if (!file)
        return AV1PART_E_IO;
    std::fclose(file);
    return guarded(AV1PART_E_FOREIGN, [&] {
        auto opened = std::make_unique<av1part_model>();
        const int code = open_package(*opened, path);
        if (!code)
            *model = opened.release();
        return code;
    });
}

int av1part_open_memory(av1part_model **model, const void *blob, size_t)
{
    if (!model || !blob)
        return AV1PART_E_INVALID;
    *model = nullptr;
    return AV1PART_E_FOREIGN;
}

void av1part_close(av1part_model *model)
{
    guarded(0, [&] {
        delete model;
        return 0;
    });
}

size_t av1part_scratch_size(const av1part_model *model)
{
    return model ? SCRATCH : 0;
}

const char *av1part_instructions(const av1part_model *model)
{
    return !model ? "" : model->device.is_cuda() ? "cuda" : "aotinductor";
}

int av1part_use(av1part_model *model, const char *instructions)
{
    if (!model || !instructions)
        return AV1PART_E_INVALID;
    return std::strcmp(instructions, av1part_instructions(model)) ? AV1PART_E_MISSING : 0;
}

int av1part_precision(const av1part_model *model)
{
    return model ? 0 : AV1PART_E_INVALID;
}

int av1part_threshold(const av1part_model *model, double keep, float *threshold)
{
    if (!model || !threshold)
        return AV1PART_E_INVALID;
    for (const auto &entry : model->about)
        if (!entry.first.compare(0, 5, "keep ")) {
            const double share = std::strtod(entry.first.c_str() + 5, nullptr);
            if (share > keep - 1e-4 && share < keep + 1e-4) {
                *threshold = std::strtof(entry.second.c_str(), nullptr);
                return 0;
            }
        }
    return AV1PART_E_MISSING;
}

int av1part_predict_blocks(const av1part_model *model, const void *blocks, size_t count, int bit_depth,
                           int bytes_per_sample, const uint8_t *qindex, float *logits, float *probability,
                           void *scratch, size_t scratch_size)
{
    source from;
    const answer to = {logits, probability, nullptr, 0};
    if (!model || blocks_source(&from, blocks, count, bit_depth, bytes_per_sample, qindex))
        return AV1PART_E_INVALID;
    return guarded(AV1PART_E_FOREIGN,
                   [&] { return predict(*const_cast<av1part_model *>(model), from, to, scratch, scratch_size); });
}

int av1part_predict_plane(const av1part_model *model, const av1part_plane *plane, int qindex, float threshold,
                          float *probability, uint16_t *masks, void *scratch, size_t scratch_size)
{
    source from;
    uint8_t level;
    const answer to = {nullptr, probability, masks, threshold};
    if (!model || plane_source(&from, plane, qindex, threshold, &level))
        return AV1PART_E_INVALID;
    return guarded(AV1PART_E_FOREIGN,
                   [&] { return predict(*const_cast<av1part_model *>(model), from, to, scratch, scratch_size); });
}

}  // extern "C"
