"""A SavedModel without Python: it is served by a program in C."""

import pathlib
import subprocess

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

C_PROGRAM = pathlib.Path(__file__).parent / "serve_saved_model.c"


def compile_program(folder):
    library = pathlib.Path(tf.sysconfig.get_lib())
    program = folder / "serve"
    subprocess.run(
        [
            *("gcc", "-std=c11", "-Wall", "-Werror", C_PROGRAM, "-o", program),
            f"-I{tf.sysconfig.get_include()}",
            *(f"-L{library}", f"-Wl,-rpath,{library}"),
            *("-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"),
        ],
        check=True,
    )
    return program


def operations(version):
    """The names of the input and the output that the program asks for."""
    model = saved_model_pb2.SavedModel.FromString(
        (version / "saved_model.pb").read_bytes()
    )
    signature = model.meta_graphs[0].signature_def["serving_default"]
    tensors = signature.inputs["image_bytes"], signature.outputs["embedding"]
    return [tensor.name.removesuffix(":0") for tensor in tensors]


def ask_program(program, version, path):
    command = [program, version, path, *operations(version)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return np.array(done.stdout.split(), float)
