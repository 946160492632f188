// Python's way to the kernels, the same for both devices: a function takes whole numbers (pointers
// too) in the order below, and at last, where there is one, the tolerance. Neither torch's nor
// pybind11's headers are read, so that a build takes seconds.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdint>
#include <exception>

#include "fused.h"
#include "reduction.h"

namespace pararnn {

// Takes the numbers one after the other; what is no number leaves a Python error behind.
class Arguments {
 public:
  Arguments(PyObject* const* values, Py_ssize_t count) : values_(values), left_(count) {}

  int64_t number() { return left_-- > 0 ? PyLong_AsLongLong(*values_++) : missing(); }
  double real() { return left_-- > 0 ? PyFloat_AsDouble(*values_++) : double(missing()); }
  template <typename T>
  T* pointer() {
    return (T*)number();
  }

  FusedShape shape() {
    FusedShape x;
    x.cell = int(number());
    x.element = int(number());
    x.rows = number();
    x.sequences = number();
    x.steps = number();
    x.channels = number();
    x.chunks = number();
    x.starts = pointer<int64_t>();
    return x;
  }

  Strides strides() {
    Strides x;
    x.row = number();
    x.time = number();
    x.gate = number();
    x.channel = number();
    return x;
  }

  FusedForward forward() {
    FusedForward x;
    x.shape = shape();
    x.preactivations = pointer<void>();
    x.strides = strides();
    x.parameters = pointer<void>();
    x.initial = pointer<void>();
    x.states = pointer<void>();
    x.final = pointer<void>();
    x.checkpoints = pointer<void>();
    x.sweeps = pointer<int32_t>();
    x.residual = pointer<float>();
    x.max_sweeps = number();
    x.tolerance = real();
    return x;
  }

  FusedBackward backward() {
    FusedBackward x;
    x.shape = shape();
    x.preactivations = pointer<void>();
    x.strides = strides();
    x.parameters = pointer<void>();
    x.initial = pointer<void>();
    x.saved = pointer<void>();
    x.grad_states = pointer<void>();
    x.grad_strides = strides();
    x.grad_final = pointer<void>();
    x.grad_preactivations = pointer<void>();
    x.grad_parameters = pointer<void>();
    x.grad_initial = pointer<void>();
    return x;
  }

  Reduction reduction() {
    Reduction x;
    x.is_double = int(number());
    x.block = int(number());
    x.reversed = int(number());
    x.rows = number();
    x.steps = number();
    x.channels = number();
    x.blocks = pointer<void>();
    x.right = pointer<void>();
    x.solution = pointer<void>();
    x.scratch = pointer<void>();
    return x;
  }

 private:
  int64_t missing() {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "too few arguments for the kernel");
    return 0;
  }

  PyObject* const* values_;
  Py_ssize_t left_;
};

// Runs `kernel` without the interpreter's lock; a C++ exception becomes a RuntimeError.
template <typename Kernel>
PyObject* call(Kernel kernel) {
  if (PyErr_Occurred()) return nullptr;
  PyThreadState* thread = PyEval_SaveThread();
  try {
    kernel();
  } catch (const std::exception& error) {
    PyEval_RestoreThread(thread);
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
  PyEval_RestoreThread(thread);
  Py_RETURN_NONE;
}

}  // namespace pararnn

#define JOIN_TOKENS(a, b) a##b
#define MODULE_INIT(name) JOIN_TOKENS(PyInit_, name)
#define FUNCTION(name)                                                                             \
  static PyObject* name(PyObject*, PyObject* const* values, Py_ssize_t count)
#define METHOD(name) {#name, (PyCFunction)(void (*)())name, METH_FASTCALL, nullptr},
#define TEXT_OF(name) #name
#define MODULE(name, ...)                                                                          \
  static PyMethodDef methods[] = {                                                                 \
      METHOD(fused_forward) METHOD(fused_backward) METHOD(reduction) __VA_ARGS__{}};               \
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, TEXT_OF(name), nullptr, -1, methods};        \
  PyMODINIT_FUNC MODULE_INIT(name)() { return PyModule_Create(&module); }
