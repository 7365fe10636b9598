"""A TensorRT of Python alone, where none can be installed: what infer/ and export/ use of its API, and nothing else.

Every class and attribute here must exist in the real bindings of tensorrt_rtx (test_tensorrt_library.py), so that the
stub cannot drift from the API it stands for; what TensorRT 10 has and those bindings have not stands in DOCUMENTED.
The network that it "parses" is PARSED, recorded from tensorrt_rtx 1.7.1 for the shape of our graphs.
"""

from __future__ import annotations

import enum
import json
import types
from dataclasses import dataclass, field

import numpy as np

DOCUMENTED: dict[str, str] = {}
"""Names that tensorrt_rtx has not, with the page that documents them. None is needed."""

PARSED = (
    ("cast", "CAST", [("blocks", "UINT8")], [("x", "HALF")]),
    ("weights", "CONSTANT", [], [("w", "HALF")]),
    ("product", "MATRIX_MULTIPLY", [("x", "HALF"), ("w", "HALF")], [("y", "HALF")]),
    ("up", "CAST", [("y", "HALF")], [("logits", "FLOAT")]),
    ("softmax", "SOFTMAX", [("logits", "FLOAT")], [("probability", "FLOAT")]),
    ("argmax", "TOPK", [("probability", "FLOAT")], [("top", "FLOAT"), ("partition", "INT32")]),
)
"""Layers: name, kind, tensors read, tensors written."""

INSPECTED = {
    "Layers": [
        {
            "Name": "__myl_CastGemm",
            "LayerType": "gemm",
            "Inputs": [{"Name": "blocks", "Format/Datatype": "UInt8"}, {"Name": "w", "Format/Datatype": "Half"}],
            "Outputs": [{"Name": "logits", "Format/Datatype": "Float"}],
            "Metadata": "[ONNX Layer: cast]\x1f[ONNX Layer: product]\x1f[ONNX Layer: up]",
        },
        {
            "Name": "__myl_Softmax",
            "LayerType": "kgen",
            "Inputs": [{"Name": "logits", "Format/Datatype": "Float"}],
            "Outputs": [{"Name": "probability", "Format/Datatype": "Float"}],
            "Metadata": "[ONNX Layer: softmax]\x1f[ONNX Layer: argmax]",
        },
    ]
}
"""What the inspector says of an engine of PARSED, in the words of TensorRT 10."""


class Named:
    def __init__(self, name):
        self.name = name


@dataclass
class ITensor:
    name: str
    dtype: Named
    shape: tuple = ()


class ILayer:
    def __init__(self, name, kind, read, written):
        self.name, self.type, self.metadata = name, Named(kind), f"[ONNX Layer: {name}]"
        self._read = [ITensor(n, Named(t)) for n, t in read]
        self._written = [ITensor(n, Named(t)) for n, t in written]
        self.num_inputs, self.num_outputs = len(read), len(written)

    def get_input(self, index):
        return self._read[index]

    def get_output(self, index):
        return self._written[index]


class INetworkDefinition:
    def __init__(self, parsed):
        self._layers = [ILayer(*layer) for layer in parsed]
        self._inputs = [ITensor("blocks", Named("UINT8"), (-1, 16, 16)), ITensor("qindex", Named("INT32"), (-1,))]
        self._outputs = [ITensor(n, Named("FLOAT"), (-1, 1)) for n in ("logits", "probability", "partition")]
        self.num_layers, self.num_inputs, self.num_outputs = len(self._layers), 2, 3

    def get_layer(self, index):
        return self._layers[index]

    def get_input(self, index):
        return self._inputs[index]

    def get_output(self, index):
        return self._outputs[index]


class IOptimizationProfile:
    def __init__(self):
        self._shapes = {}

    def set_shape(self, input, min, opt, max):
        self._shapes[input] = [tuple(shape) for shape in (min, opt, max)]


class ITimingCache:
    def __init__(self, content):
        self._content = content

    def serialize(self):
        return self._content + b"+measured"


class IBuilderConfig:
    def __init__(self, module):
        self._flags, self._profiles, self._cache = set(), [], None
        if hasattr(module.BuilderFlag, "TF32"):
            self._flags.add(module.BuilderFlag.TF32)  # on by default
        self.profiling_verbosity = self.hardware_compatibility_level = self.progress_monitor = None

    def set_flag(self, flag):
        self._flags.add(flag)

    def clear_flag(self, flag):
        self._flags.discard(flag)

    def add_optimization_profile(self, profile):
        self._profiles.append(profile)
        return 0

    def create_timing_cache(self, serialized_timing_cache):
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        self._cache = cache
        return not cache._content.startswith(b"of another GPU")

    def get_timing_cache(self):
        return self._cache


@dataclass
class Asked:
    """What the code under test asked of the stub, in order, and what the stub is to answer."""

    creation_flags: list = field(default_factory=list)
    configs: list = field(default_factory=list)
    runtimes: list = field(default_factory=list)
    contexts: list = field(default_factory=list)
    parsed: tuple = PARSED
    inspected: dict = field(default_factory=lambda: INSPECTED)
    stopped: bool = False
    refuse: str = ""  # of: "builder", "parse", "build", "deserialize", "context", "run"
    compute: object = None  # called with {name: (address, shape)} when an engine runs
    profile: tuple = (1, 64, 256)
    validity: tuple | None = None  # (EngineValidity, diagnostics), where the module has get_engine_validity
    tensors: dict = field(
        default_factory=lambda: {
            "blocks": ("UINT8", (-1, 16, 16)),
            "qindex": ("INT32", (-1,)),
            "logits": ("FLOAT", (-1, 14)),
            "probability": ("FLOAT", (-1, 10)),
            "partition": ("INT32", (-1,)),
        }
    )


def make_tensorrt(version="10.9.0.34", rtx=False, without=()):
    """A module that looks like TensorRT; `module.asked` is an Asked.

    Args:
        version: its __version__.
        rtx: TensorRT for RTX instead.
        without: names such as "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY" that this version has not.
    """
    module = types.ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    module.__version__, module.asked = version, Asked()
    asked = module.asked

    class ILogger:
        Severity = enum.Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

        def __init__(self):
            pass

    class IProgressMonitor:
        def __init__(self):
            pass

    class Builder:
        def __init__(self, logger):
            if asked.refuse == "builder":
                logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("factory function returned nullptr")
            self._logger = logger

        def create_network(self, flags):
            asked.creation_flags.append(flags)
            return INetworkDefinition(asked.parsed)

        def create_builder_config(self):
            asked.configs.append(IBuilderConfig(module))
            return asked.configs[-1]

        def create_optimization_profile(self):
            return IOptimizationProfile()

        def build_serialized_network(self, network, config):
            self._logger.log(ILogger.VERBOSE, "chatter")
            self._logger.log(ILogger.INFO, "Engine generation completed")
            monitor = config.progress_monitor
            monitor.phase_start("Building engine", None, 4)
            monitor.phase_start("inner", "Building engine", 100)
            monitor.step_complete("inner", 99)
            going_on = all([monitor.step_complete("Building engine", step) for step in range(4)])
            asked.stopped = not going_on
            monitor.phase_finish("Building engine")
            if asked.refuse == "build":
                self._logger.log(ILogger.ERROR, "no tactic")
                self._logger.log(ILogger.ERROR, "a consequence")
            return memoryview(b"plan of the stub") if going_on and asked.refuse != "build" else None

    class OnnxParser:
        def __init__(self, network, logger):
            self.num_errors = 0

        def parse(self, model):
            if asked.refuse == "parse":
                self.num_errors = 1
            return asked.refuse != "parse"

        def get_error(self, index):
            return types.SimpleNamespace(desc=lambda: "node 3 is unsupported")

    class EngineInspector:
        def get_engine_information(self, format):
            assert format is module.LayerInformationFormat.JSON
            return json.dumps(asked.inspected)

    class IExecutionContext:
        def __init__(self):
            self._shapes, self._addresses = {}, {}
            self.shapes_seen = []

        def set_input_shape(self, name, shape):
            least, _, most = asked.profile
            self._shapes[name] = tuple(shape)
            return least <= shape[0] <= most

        def set_tensor_address(self, name, memory):
            self._addresses[name] = memory
            return memory != 0

        def execute_async_v3(self, stream_handle):
            assert stream_handle
            self.shapes_seen.append(self._shapes["blocks"])
            if asked.refuse == "run":
                return False
            count = self._shapes["blocks"][0]
            shapes = {n: (count, *shape[1:]) if shape else () for n, (_, shape) in asked.tensors.items()}
            asked.compute({name: (self._addresses[name], shape) for name, shape in shapes.items()})
            return True

    class ICudaEngine:
        num_layers = 2

        def __init__(self):
            self.num_io_tensors = len(asked.tensors)

        def create_engine_inspector(self):
            return EngineInspector()

        def create_execution_context(self):
            if asked.refuse == "context":
                return None
            asked.contexts.append(IExecutionContext())
            return asked.contexts[-1]

        def get_tensor_name(self, index):
            return list(asked.tensors)[index]

        def get_tensor_dtype(self, name):
            return Named(asked.tensors[name][0])

        def get_tensor_shape(self, name):
            return asked.tensors[name][1]

        def get_tensor_profile_shape(self, name, profile_index):
            assert profile_index == 0
            return [(n, *asked.tensors[name][1][1:]) for n in asked.profile]

    class Runtime:
        def __init__(self, logger):
            self._logger, self.engine_host_code_allowed = logger, False
            asked.runtimes.append(self)

        def deserialize_cuda_engine(self, serialized_engine):
            if asked.refuse == "deserialize":
                self._logger.log(ILogger.ERROR, "expecting compute 8.9 got compute 9.0, please rebuild")
                return None
            return ICudaEngine()

        if rtx:

            def get_engine_validity(self, buffer):
                self._logger.log(ILogger.INFO, "The engine cannot run: the header says so")
                return asked.validity or (module.EngineValidity.VALID, 0)

    # fmt: off
    enums = {
        "BuilderFlag": "TF32 VERSION_COMPATIBLE", "NetworkDefinitionCreationFlag": "STRONGLY_TYPED",
        "HardwareCompatibilityLevel": "NONE AMPERE_PLUS SAME_COMPUTE_CAPABILITY",
        "ProfilingVerbosity": "LAYER_NAMES_ONLY DETAILED NONE", "LayerInformationFormat": "ONELINE JSON",
    }
    # fmt: on
    for name, members in enums.items():
        kept = [m for m in members.split() if f"{name}.{m}" not in without]
        setattr(module, name, enum.IntEnum(name, kept, start=0))
    if rtx:
        causes = "VERSION_MISMATCH UNSUPPORTED_CC OLD_CUDA_DRIVER OLD_CUDA_RUNTIME INSUFFICIENT_GPU_MEMORY"
        flags = {text: 1 << bit for bit, text in enumerate(causes.split())}
        module.EngineValidity = enum.IntEnum("EngineValidity", "VALID SUBOPTIMAL INVALID", start=0)
        module.EngineInvalidityDiagnostics = enum.IntEnum("EngineInvalidityDiagnostics", flags)
        module.ComputeCapability = enum.IntEnum(
            "ComputeCapability", {"NONE": 0, "CURRENT": 1} | {f"SM{n}": n for n in (75, 80, 86, 89, 120, 121)}
        )
    for each in (ILogger, IProgressMonitor, Builder, OnnxParser, EngineInspector, IExecutionContext, ICudaEngine):
        setattr(module, each.__name__, each)
    module.Runtime, module.IBuilderConfig, module.INetworkDefinition = Runtime, IBuilderConfig, INetworkDefinition
    module.ILayer, module.ITensor = ILayer, ITensor
    module.IOptimizationProfile, module.ITimingCache = IOptimizationProfile, ITimingCache
    for path in without:
        if "." not in path:
            delattr(module, path)
    return module


class HostDriver:
    """infer.sessions.cuda.Driver with the host's memory for the device's."""

    def __init__(self, gpu):
        self._gpu, self.copies, self.entered = gpu, [], 0
        self._held = {}

    def enter(self):
        self.entered += 1

    def gpu(self):
        return self._gpu

    def stream(self):
        return 7

    def synchronise(self, stream):
        assert stream == 7
        for values, memory in self.copies:
            values[...] = at(memory.address, values.dtype, values.shape)
        self.copies.clear()

    def allocate(self, size):
        from infer.sessions.cuda import Memory

        array = np.zeros(size, np.uint8)
        self._held[array.ctypes.data] = array
        return Memory(self, array.ctypes.data, size)

    def free(self, address):
        del self._held[address]

    def upload(self, memory, values, stream):
        assert values.nbytes <= memory.size and stream == 7
        at(memory.address, values.dtype, values.shape)[...] = values

    def download(self, values, memory, stream):
        assert values.nbytes <= memory.size and stream == 7
        self.copies.append((values, memory))


def at(address, dtype, shape):
    """The array that lies at an address of this process."""
    import ctypes

    size = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)
