"""kipx.kernel.gpu on a CPU: the CUDA kernels compiled by the machine's C++ compiler, threads taking turns."""

import contextlib
import ctypes
import hashlib
import pathlib
import re
import shutil
import subprocess
import tempfile

import jax
import numpy as np

HEADER = (pathlib.Path(__file__).parent / "cuda_on_cpu.h").read_text()
COMPILER = shutil.which("c++")
FOLDER = pathlib.Path(tempfile.gettempdir()) / "kipx-emulated"


@contextlib.contextmanager
def on(context, buffers):
    yield jax.tree.map(np.asarray, buffers)


def compiled(source, name, threads, shared):
    code = source.replace("extern __shared__ double shared[];", "")
    parameters = re.search(rf"{name}\(([^)]*)\) {{", code[code.index('extern "C"') :]).group(1)
    types = [parameter.rsplit(maxsplit=1)[0] + "*" * ("*" in parameter) for parameter in parameters.split(",")]
    types = [t.replace("**", "*") for t in types]
    names = [re.search(r"\w+$", parameter).group() for parameter in parameters.split(",")]
    globals_ = "".join(f"static {t.replace('const ', 'const ')} g_{n};\n" for t, n in zip(types, names, strict=True))
    run = f"""
{globals_}
static void run_one() {{ {name}({", ".join("g_" + n for n in names)}); }}
extern "C" void emulate(int grid_x, int grid_y, {parameters}) {{
    {" ".join(f"g_{n} = {n};" for n in names)}
    for (int y = 0; y < grid_y; y++)
        for (int x = 0; x < grid_x; x++) {{
            blockIdx = {{x, y}};
            for (double &d : shared) d = NAN;
            run_block(THREADS, run_one);
        }}
}}"""
    library = _library(HEADER + code + run)

    def kernel(grid, *arguments):
        assert threads <= 1024 and shared <= 227 * 1024, (threads, shared)
        assert shared <= 8 << 16
        values = [a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, np.ndarray) else _scalar(a) for a in arguments]
        library.emulate(ctypes.c_int(grid[0]), ctypes.c_int(grid[1]), *values)

    return kernel


def _scalar(value):
    return ctypes.c_double(value) if isinstance(value, np.float64) else ctypes.c_int(value)


def _library(code):
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{hashlib.sha256(code.encode()).hexdigest()[:16]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            file = pathlib.Path(folder) / "kernel.cpp"
            file.write_text(code)
            made = file.with_suffix(".so")
            subprocess.run([COMPILER, "-std=c++17", "-O0", "-w", "-shared", "-fPIC", file, "-o", made], check=True)
            made.replace(path)
    return ctypes.CDLL(str(path))
