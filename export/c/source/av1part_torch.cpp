// av1part.h on a GPU, or on a CPU by other code: the same functions over an AOTInductor package, which
// `cli.py export --package cuda` writes. Link this object in place of the library's, with LibTorch of the package's
// release.
//
// What differs: a model is a file alone; samples are of 8 bit; PyTorch allocates memory of its own within a call; calls
// on one model wait for each other; opening a model for a GPU turns TF32 off for the whole process. Messages of
// PyTorch's own go nowhere: a package that it refuses is AV1PART_E_FOREIGN, and so is one that does not say its task.
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
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

namespace
{

constexpr size_t BATCH = 16384; // blocks handed to PyTorch at once

size_t scratch_of(const task &about)
{
    return BATCH * (size_t{about.unit} * about.unit + sizeof(int32_t));
}

} // namespace

struct av1part_model {
    std::unique_ptr<torch::inductor::AOTIModelPackageLoader> loader;
    std::unordered_map<std::string, std::string> about;
    std::vector<uint32_t> table;
    struct task task; // its pointers are into the table
    torch::Device device = torch::kCPU;
    std::mutex running;
};

namespace
{

int open_package(av1part_model &model, const char *path)
{
    model.loader = std::make_unique<torch::inductor::AOTIModelPackageLoader>(path);
    model.about = model.loader->get_metadata();
    std::istringstream words(model.about["task table"]);
    for (uint32_t word; words >> word;)
        model.table.push_back(word);
    if (read_task(&model.task, model.table.data(), model.table.size()))
        return AV1PART_E_FOREIGN;
    if (!is_served(&model.task))
        return AV1PART_E_TASK;
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
    const size_t side = from.side, top = block / from.columns * side, left = block % from.columns * side;
    if (from.bytes == 1 && top + side <= from.height && left + side <= from.width) {
        const unsigned char *row = from.samples + static_cast<ptrdiff_t>(top) * from.stride + left;
        for (size_t y = 0; y < side; y++, row += from.stride)
            std::memcpy(bytes + y * side, row, side);
        return 0;
    }
    float samples[MOST_SAMPLES];
    const unsigned seen = fill(&from, block, samples, 1);
    for (size_t k = 0; k < side * side; k++)
        bytes[k] = static_cast<uint8_t>(samples[k]);
    return seen;
}

int predict(av1part_model &model, const source &from, const answer &to, void *scratch, size_t scratch_size)
{
    if (!scratch || reinterpret_cast<uintptr_t>(scratch) % AV1PART_SCRATCH_ALIGN)
        return AV1PART_E_INVALID;
    if (scratch_size < scratch_of(model.task))
        return AV1PART_E_MEMORY;
    if (from.depth != 8)
        return AV1PART_E_MISSING;
    const auto side = static_cast<int64_t>(from.side);
    const size_t size = from.side * from.side;
    const auto &level = model.task.level;
    auto *samples = static_cast<uint8_t *>(scratch);
    auto *qindex = reinterpret_cast<int32_t *>(samples + BATCH * size);
    const torch::InferenceMode no_gradients;
    for (size_t done = 0; done < from.count; done += BATCH) {
        const size_t count = std::min(BATCH, from.count - done);
        unsigned seen = 0;
        for (size_t i = 0; i < count; i++) {
            seen |= fill_bytes(from, done + i, samples + i * size);
            qindex[i] = from.qindex[(done + i) * from.qindex_step];
        }
        if (seen >> 8)
            return AV1PART_E_SAMPLE;
        const auto rows = static_cast<int64_t>(count);
        const std::vector<at::Tensor> given = {
            torch::from_blob(samples, {rows, side, side}, torch::kUInt8).to(model.device),
            torch::from_blob(qindex, {rows}, torch::kInt32).to(model.device)};
        at::Tensor logits;
        {
            const std::lock_guard<std::mutex> alone(model.running);
            logits = model.loader->run(given).at(0).to(torch::kCPU, torch::kFloat32).contiguous();
        }
        if (logits.dim() != 2 || logits.size(0) != rows || logits.size(1) != int64_t{level.logits})
            return AV1PART_E_FOREIGN;
        for (size_t i = 0; i < count; i++)
            answer_block(&to, &from, &level, done + i, logits.data_ptr<float>() + i * level.logits, 1);
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

} // namespace

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
    return model ? scratch_of(model->task) : 0;
}

const char *av1part_version(void)
{
    return VERSION_TEXT(AV1PART_VERSION_MAJOR, AV1PART_VERSION_MINOR, AV1PART_VERSION_PATCH);
}

int av1part_side(const av1part_model *model)
{
    return model ? static_cast<int>(model->task.unit) : 0;
}

int av1part_types(const av1part_model *model)
{
    return model ? static_cast<int>(model->task.level.types) : 0;
}

int av1part_logits(const av1part_model *model)
{
    return model ? static_cast<int>(model->task.level.logits) : 0;
}

const char *av1part_task(const av1part_model *model)
{
    if (!model)
        return "";
    const auto found = model->about.find("task");
    return found == model->about.end() ? "" : found->second.c_str();
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
    if (!model || blocks_source(&from, model->task.unit, blocks, count, bit_depth, bytes_per_sample, qindex))
        return AV1PART_E_INVALID;
    return guarded(AV1PART_E_FOREIGN,
                   [&] { return predict(*const_cast<av1part_model *>(model), from, to, scratch, scratch_size); });
}

int av1part_predict_plane(const av1part_model *model, const av1part_plane *plane, int qindex, float threshold,
                          float *probability, av1part_mask *masks, void *scratch, size_t scratch_size)
{
    source from;
    uint8_t level;
    const answer to = {nullptr, probability, masks, threshold};
    if (!model || plane_source(&from, model->task.unit, plane, qindex, threshold, &level))
        return AV1PART_E_INVALID;
    return guarded(AV1PART_E_FOREIGN,
                   [&] { return predict(*const_cast<av1part_model *>(model), from, to, scratch, scratch_size); });
}

} // extern "C"
