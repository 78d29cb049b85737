"""Systems that networks are deployed with, as records: no recipe, but what of each is here and what was checked."""

from featherweight.core.stage import Reference
from featherweight.papers.system import Part, System

OPSETS = "`python benchmarks/opsets.py`, record benchmarks/results/opsets.json"
TENSORRT = "`python benchmarks/parity.py digits cifar10-resnet20 --engines tensorrt`"
OLDER = (
    "float files of `digits` pass onnx's version converter and checker from opset 21 down to 15, those of ResNet-20 "
    "down to 18: older sets have no adapter for Relu, and none for Pad. Int8 files, with QuantizeLinear and "
    "DequantizeLinear, pass down to 19"
)

TENSORRT_RECORD = System(
    "tensorrt",
    Reference("NVIDIA TensorRT", "NVIDIA", 2018, url="https://developer.nvidia.com/tensorrt"),
    "Compile a trained network for one NVIDIA GPU: fuse layers, choose kernels by timing them, compute in 8 bits with "
    "ranges that calibration found (implicit, until version 10) or that QuantizeLinear and DequantizeLinear say "
    "(explicit, since version 8; alone in 11).",
    (
        Part("calibration by least KL divergence", "activations/entropy.py, recipe mxnet-quantization"),
        Part("explicit quantization: INT8 activations, INT8 and INT4 weights", "engines/tensorrt.py (export alone)"),
        Part("its rules for such files, checked without it", "engines/tensorrt_rules.py"),
        Part("2:4 structured sparsity", "schemes/amounts.py, NToM(2, 4), for weights; no file for its sparse kernels"),
        Part("fusion, kernel timing, engines", "nowhere: they are the GPU's; `trtexec` makes them of our files"),
    ),
    (
        f"no violation of the rules, and the simulated model's decisions, in ONNX's reference evaluator: {TENSORRT}, "
        "record benchmarks/results/tensorrt.json",
        "seven-bit activations are written exactly; of eight bits without a sign one is lost "
        "(tests/engines/test_tensorrt.py)",
        "ONNX Runtime computes the same files with `session.qdqisint8allowed` of 1 (the same tests)",
    ),
    ("no file was built or run by TensorRT: there is no GPU here, and its package fetches itself from elsewhere",),
    "It is maintained. Build our file with `trtexec --onnx=m.onnx --saveEngine=m.plan --stronglyTyped`; version 11 "
    "always types strongly and has no calibration of its own any more.",
    "NVIDIA's documentation of 11.4 and its migration guide (search); parts of the importer's source; first release "
    "and year from memory",
)

TENSORRT4_EXAMPLE = System(
    "tensorrt4-example",
    Reference("TensoRT4-Example", "YunYang1994", 2018, url="https://github.com/YunYang1994/TensoRT4-Example"),
    "Scripts that convert small networks to engines of TensorRT 4 and run them.",
    (Part("from a trained model to a file for TensorRT", "`featherweight export m.fwt -o m.onnx --engine tensorrt`"),),
    ("what the file for TensorRT holds: see the card tensorrt",),
    ("the scripts themselves: they were not at hand, and TensorRT 4's UFF and Caffe importers are gone",),
    "`trtexec` and the ONNX importer of later versions.",
    "nothing but its title and address: written from memory, unconfirmed",
)

TVM = System(
    "tvm",
    Reference(
        "TVM: An Automated End-to-End Optimizing Compiler for Deep Learning",
        "Chen, Moreau, Jiang et al.",
        2018,
        "1802.04799",
    ),
    "A compiler from framework graphs to code for many targets: graph rewrites and fusion above, schedules of tensor "
    "expressions below, chosen by a learned cost model.",
    (
        Part("compiled programs for the CPU", "engines/tvm.py, through Relax and LLVM, untuned"),
        Part("a second opinion on what a float or quantized model computes", "engines/tvm.py"),
        Part("its quantization pass with KL calibration", "activations/entropy.py"),
        Part("bit-serial kernels, tuning, other targets", "nowhere"),
    ),
    (
        "float and int8 models of tasks against PyTorch: `python benchmarks/parity.py --engines tvm`, record "
        "benchmarks/results/tvm.json (apache-tvm 0.27.0.post1)",
    ),
    ("speed: programs are untuned, many times slower than other engines, and no time is published",),
    "It is maintained, as Apache TVM; Relay, its graph language of 2018, was replaced by Relax.",
    "the installed package; idea from memory of the paper's abstract",
)

NCNN = System(
    "ncnn",
    Reference("ncnn", "Tencent", 2017, url="https://github.com/Tencent/ncnn"),
    "A small inference engine for phones without other libraries: hand-written kernels for ARM and x86, Vulkan, fp16 "
    "storage, int8 layers with calibrated input scales.",
    (
        Part("float32 and int8 networks", "engines/ncnn.py: pnnx converts, our integers are laid into its file"),
        Part("its calibration by KL divergence", "activations/entropy.py"),
        Part("its int8 arithmetic, written down", "engines/ncnn_integers.py"),
        Part("chains of int8 layers without floats between", "nowhere: every layer gives floats here"),
        Part("16-bit storage, Vulkan, recurrent int8", "nowhere; 16 bits are switched off for parity"),
    ),
    (
        "float and int8 models of tasks against PyTorch: `python benchmarks/parity.py --engines ncnn`, record "
        "benchmarks/results/ncnn.json (ncnn 1.0.20261020 on x86)",
        "a file of integers worked out by hand, and the digits network (tests/engines/test_ncnn.py)",
    ),
    ("phones, and any speed",),
    "It is maintained; its converters of ONNX and Caffe were replaced by pnnx.",
    "its sources (search, several versions), and the installed packages",
)

GLOW = System(
    "glow",
    Reference("Glow: Graph Lowering Compiler Techniques for Neural Networks", "Rotem et al.", 2018, "1805.00907"),
    "A compiler for accelerators with two strongly typed languages: graphs that are lowered to linear algebra, and "
    "instructions that are scheduled in memory; 8-bit networks by profiling a run and compiling again.",
    (
        Part("profile-guided quantization", "activations/ranges.py, activations/observers.py: ranges from calibration"),
        Part("symmetric with uint8, its schema of offsets 0 and −128", "Quantizer of activations/quantizers.py"),
        Part("quantization of a row each", "schemes/uniform.py, PerChannel"),
        Part("leaving kinds of nodes in floats", "`exclude` of activations/rules.py"),
        Part("bundles compiled ahead", "engines/tvm.py and pytorch-compiled are the nearest; no bundle is written"),
    ),
    (f"{OLDER}: {OPSETS}",),
    (
        "whether Glow loads these files: it is not installable here. Its loader knows Conv, Relu, MaxPool, Add, Gemm, "
        "Reshape, Pad, Slice, QuantizeLinear and DequantizeLinear by name, and says of no opset that it is the last; "
        "it is of a time of opsets about 7 to 13, which our files do not reach by conversion",
    ),
    "It is no longer developed (its maintainers' announcement of September 2023); torch.export with ExecuTorch, and "
    "inductor, took its place in PyTorch.",
    "docs/Quantization.md, README and ONNXModelLoader.cpp of the repository, and the announcement (search); successors "
    "and opsets from memory",
)

TENGINE = System(
    "tengine",
    Reference("Tengine", "OPEN AI LAB", 2018, url="https://github.com/OAID/Tengine"),
    "A modular inference engine in C for embedded devices: models of many frameworks become its tmfile, operators run "
    "on CPU, GPU or NPU plug-ins, a tool quantizes to uint8 (asymmetric) or int8 (symmetric, by channels).",
    (
        Part(
            "uint8 and int8 after training, by extremes or KL divergence", "search/precision.py, activations/entropy.py"
        ),
        Part("files to convert from", "`featherweight export m.fwt -o m.onnx`, or .ncnn, whose two files it names too"),
        Part("tmfile and its kernels", "nowhere"),
    ),
    (
        f"{OLDER}: {OPSETS}. Every operator of the float files (Conv, Relu, MaxPool, Add, Gemm, Reshape, Slice, Pad, "
        "ReduceMean) is in the list that its converter registers",
    ),
    (
        "whether its converter takes these files: it is not installable here, and does not say which opsets it reads; "
        "its source names 10 and 11 at Resize. QuantizeLinear and DequantizeLinear are not in its list: give it float "
        "files, and quantize with its tool",
    ),
    "Its last changes are years old; ncnn and MNN are the living engines of its kind.",
    "doc/docs_en and tools/convert_tool/onnx/onnx2tengine.cpp of the repository (search); state and successors from "
    "memory",
)

TENSORFLOW_LITE = System(
    "tensorflow-lite",
    Reference("TensorFlow Lite", "TensorFlow authors", 2017, url="https://www.tensorflow.org/lite"),
    "Run networks on phones and microcontrollers from one flat file: integer arithmetic with weights symmetric by "
    "channel in −127 to 127 and activations asymmetric by tensor, delegates for other processors.",
    (
        Part(
            "its integer arithmetic, bit by bit: multipliers, shifts, roundings",
            "graph/integer.py, graph/fixed_point.py",
        ),
        Part("training for it", "recipes qat-jacob and tf-contrib-quantize"),
        Part("its limits on levels: no −128 among weights, zero always a level", "schemes/uniform.py, Quantizer"),
        Part("files for it, with our integers and scales", "engines/litert.py, through LiteRT's own converter"),
        Part("delegates, microcontrollers, training on devices", "nowhere"),
    ),
    (
        "a model on integers alone decides as the simulation does (tests/graph)",
        "float and int8 models of tasks in LiteRT against PyTorch, sizes and times: `python benchmarks/engines.py`, "
        "record benchmarks/results/engines.json (ai-edge-litert 2.3.0, litert-torch 0.10.0)",
        "int8 beside ai-edge-quantizer's on the same weights: `python benchmarks/int8_edge.py`, record "
        "benchmarks/results/int8-edge.json",
    ),
    ("bit equality with TensorFlow Lite's own kernels on whole networks",),
    "LiteRT, which it is called now; its files and specification go on.",
    "LiteRT's 8-bit quantization specification (search); year from memory",
)

NEON = System(
    "neon",
    Reference("neon", "Nervana Systems, Intel", 2015, url="https://github.com/NervanaSystems/neon"),
    "Nervana's, then Intel's reference framework for training: hand-written GPU kernels with 16-bit storage and "
    "stochastic rounding, Winograd convolutions, a backend on MKL.",
    (
        Part("stochastic rounding of 16-bit fixed point in training", "recipe limited-numerical-precision"),
        Part("layers, training, models", "PyTorch's"),
        Part("its kernels", "nowhere"),
    ),
    ("nothing: it compresses nothing, and was not installed",),
    ("anything of it was run",),
    "It is discontinued (its README says so). Intel went on with nGraph, which became part of OpenVINO, for which "
    "engines/openvino.py exports.",
    "README of the repository (search); nGraph and kernels from memory",
)

SYSTEMS: dict[str, System] = {
    each.name: each for each in (TENSORRT_RECORD, TENSORRT4_EXAMPLE, TVM, NCNN, GLOW, TENGINE, TENSORFLOW_LITE, NEON)
}
