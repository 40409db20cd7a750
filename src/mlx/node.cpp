/* SPDX-License-Identifier: MIT */
/* The primitive that carries a zm_node_class. A handle's ctx is the mlx::core::array or Stream itself,
 * in mlx-c as in the subset. */
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "mlx/backend/cpu/encoder.h"
#include "mlx/dtypes.hpp"
#include "mlx/mlx.h"
#include "mlx/primitives.h"

#include "mlx/allocate.hpp"
#include "mlx/launch.hpp"

extern "C" {
#include "base/error.h"
#include "mlx/node.h"
}

namespace mx = mlx::core;

namespace {

using Arrays = std::vector<mx::array>;

template <typename Vector>
int size_of(const Vector &vector) {
    return static_cast<int>(vector.size());
}

mlx_array borrow(const mx::array &array) { return mlx_array{const_cast<mx::array *>(&array)}; }

std::vector<mlx_array> borrow(const Arrays &arrays) {
    std::vector<mlx_array> handles;
    for (const mx::array &array : arrays) handles.push_back(borrow(array));
    return handles;
}

/* The C side of a node, shared by the primitive and its running task. */
struct State {
    const zm_node_class *node_class;
    void *data;
    size_t n_outputs;
    std::vector<int> continues, replaces; /* of each output, as zm_node_output says */

    State(const zm_node_class *node_class_, void *data_, const zm_node_output *specs, int n_outputs_)
        : node_class(node_class_), data(data_), n_outputs(static_cast<size_t>(n_outputs_)) {
        for (int i = 0; i < n_outputs_; i++) {
            continues.push_back(specs[i].continues);
            replaces.push_back(specs[i].replaces);
        }
    }
    State(const State &) = delete;
    State &operator=(const State &) = delete;
    ~State() {
        if (node_class->free_state) node_class->free_state(data);
    }
};

/* What runs on the stream's thread. MLX keeps the buffers of a node until its tasks have run, also where
 * the caller has dropped the arrays meanwhile. */
struct Task {
    std::shared_ptr<State> state;
    std::vector<mx::Shape> shapes; /* of inputs, then outputs; the views point into them */
    std::vector<zm_view> views;
    std::vector<std::shared_ptr<mx::array::Data>> shared; /* MLX itself holds no buffer an output shares */
    int n_inputs, n_outputs;

    Task(std::shared_ptr<State> state_, size_t inputs, size_t outputs)
        : state(std::move(state_)), n_inputs(static_cast<int>(inputs)), n_outputs(static_cast<int>(outputs)) {
        shapes.reserve(inputs + outputs); /* so that add moves no shape */
        views.reserve(inputs + outputs);
    }
    void add(mx::array &array) {
        shapes.push_back(array.shape());
        views.push_back({array.size() ? array.data<void>() : nullptr, shapes.back().data(),
                         static_cast<int>(array.ndim()), zm::to_c(array.dtype()), array.size(), 0});
    }
    void operator()() const {
        /* The function gets its own copy of the output views: it may not change ours. */
        std::vector<zm_view> outputs(views.begin() + n_inputs, views.end());
        state->node_class->evaluate_cpu(state->data, views.data(), n_inputs, outputs.data(), n_outputs);
    }
};

class Node : public mx::Primitive {
public:
    Node(mx::Stream stream, std::shared_ptr<State> state) : Primitive(stream), state_(std::move(state)) {}

    void eval_cpu(const Arrays &inputs, Arrays &outputs) override {
        if (!state_->node_class->evaluate_cpu) refuse("evaluation on the CPU");
        auto &encoder = mx::cpu::get_command_encoder(stream());
        auto task = std::make_shared<Task>(state_, inputs.size(), outputs.size());
        replace(outputs, inputs, *task); /* before there are copies of inputs: they would be users */
        Arrays in_row_order;
        for (const mx::array &input : inputs) {
            in_row_order.push_back(in_rows(input));
            task->add(in_row_order.back());
        }
        for (size_t i = 0; i < outputs.size(); i++) {
            int continued = state_->continues[i];
            if (continued) {
                outputs[i].copy_shared_buffer(in_row_order[static_cast<size_t>(continued)]);
                task->shared.push_back(outputs[i].data_shared_ptr());
            } else if (!outputs[i].data_shared_ptr()) {
                allocate(outputs[i]);
            }
            task->add(outputs[i]);
        }
        encoder.dispatch([task = std::move(task)] { (*task)(); });
    }

    void eval_gpu(const Arrays &inputs, Arrays &outputs) override {
        if (!state_->node_class->launch_gpu) refuse("evaluation on a GPU");
        for (int continued : state_->continues)
            if (continued) refuse("continuing an input on a GPU");
        size_t size = 0;
        for (const mx::array &output : outputs) size += output.size();
        if (!size) {
            for (mx::array &output : outputs) output.set_data(mx::allocator::malloc(0));
            return;
        }
        std::vector<zm_view> views;
        auto add = [&](const mx::array &array, bool is_in_place) {
            views.push_back({nullptr, array.shape().data(), static_cast<int>(array.ndim()), zm::to_c(array.dtype()),
                             array.size(), is_in_place ? static_cast<size_t>(array.offset()) : 0});
        };
        for (const mx::array &input : inputs) add(input, input.flags().row_contiguous);
        for (const mx::array &output : outputs) add(output, false);
        auto launch = std::make_unique<zm_gpu_launch>();
        zmlx_error error{};
        if (state_->node_class->launch_gpu(state_->data, launch.get(), views.data(), size_of(inputs),
                                           views.data() + inputs.size(), size_of(outputs), &error))
            throw std::runtime_error(text(error.message));
        zm::launch_on_gpu(*launch, inputs, outputs, stream());
    }

    Arrays vjp(const Arrays &primals, const Arrays &cotangents, const std::vector<int> &argument_numbers,
               const Arrays &results) override {
        if (!state_->node_class->vjp) refuse("vjp");
        auto primal_handles = borrow(primals), cotangent_handles = borrow(cotangents);
        auto result_handles = borrow(results);
        std::vector<mlx_array> gradients(argument_numbers.size());
        mx::Stream own = stream();
        zmlx_error error{};
        zmlx_status status = state_->node_class->vjp(
            state_->data, gradients.data(), argument_numbers.data(), size_of(argument_numbers),
            primal_handles.data(), size_of(primals), cotangent_handles.data(), result_handles.data(),
            size_of(results), mlx_stream{&own}, &error);
        return take(gradients, status, "vjp", error);
    }

    Arrays jvp(const Arrays &primals, const Arrays &tangents, const std::vector<int> &argument_numbers) override {
        if (!state_->node_class->jvp) refuse("jvp");
        auto primal_handles = borrow(primals), tangent_handles = borrow(tangents);
        std::vector<mlx_array> results(state_->n_outputs);
        mx::Stream own = stream();
        zmlx_error error{};
        zmlx_status status = state_->node_class->jvp(
            state_->data, results.data(), size_of(results), argument_numbers.data(), size_of(argument_numbers),
            primal_handles.data(), size_of(primals), tangent_handles.data(), mlx_stream{&own}, &error);
        return take(results, status, "jvp", error);
    }

    std::pair<Arrays, std::vector<int>> vmap(const Arrays &inputs, const std::vector<int> &axes) override {
        if (!state_->node_class->vmap) refuse("vmap");
        auto input_handles = borrow(inputs);
        std::vector<mlx_array> results(state_->n_outputs);
        std::vector<int> result_axes(state_->n_outputs);
        mx::Stream own = stream();
        zmlx_error error{};
        zmlx_status status = state_->node_class->vmap(
            state_->data, results.data(), result_axes.data(), size_of(results), input_handles.data(), axes.data(),
            size_of(inputs), mlx_stream{&own}, &error);
        return {take(results, status, "vmap", error), result_axes};
    }

    bool is_equivalent(const mx::Primitive &other) const override {
        auto node = dynamic_cast<const Node *>(&other);
        if (!node) return false;
        const State &theirs = *node->state_;
        if (&theirs == state_.get()) return true;
        return theirs.node_class == state_->node_class && state_->node_class->equal &&
               state_->node_class->equal(state_->data, theirs.data);
    }

    const char *name() const override { return state_->node_class->name; }

private:
    std::shared_ptr<State> state_;

    /* The arrays of handles that a function of the class filled; the handles are freed. */
    Arrays take(const std::vector<mlx_array> &handles, zmlx_status status, const char *what,
                const zmlx_error &error) const {
        Arrays taken;
        for (mlx_array handle : handles) {
            if (handle.ctx) taken.push_back(*static_cast<mx::array *>(handle.ctx));
            mlx_array_free(handle);
        }
        if (status) throw std::runtime_error(text(what) + " failed: " + error.message);
        if (taken.size() != handles.size()) throw std::runtime_error(text(what) + " left an array empty");
        return taken;
    }

    std::string text(const char *what) const { return std::string(name()) + ": " + what; }

    [[noreturn]] void refuse(const char *what) const {
        throw std::runtime_error(std::string(name()) + " does not support " + what);
    }

    /* Large results begin at a cache line: MLX's own memory does not, and then each row written past the caches would
     * begin and end with a part of one. */
    static void allocate(mx::array &output) {
        constexpr size_t line = 64, large = 1 << 16;
        size_t bytes = output.nbytes();
        if (bytes < large) {
            output.set_data(zm::allocate(bytes));
            return;
        }
        output.set_data(zm::allocate(bytes + line));
        size_t past = reinterpret_cast<uintptr_t>(output.data<char>()) % line, itemsize = output.itemsize();
        if (!past || past % itemsize) return;
        output.copy_shared_buffer(output, output.strides(), output.flags(), output.data_size(),
                                  static_cast<int64_t>((line - past) / itemsize));
    }

    /* All outputs of a node hold its inputs, until MLX detaches them right after the evaluation: till then no input
     * would be the last output's alone. */
    void replace(Arrays &outputs, const Arrays &inputs, Task &task) {
        for (size_t i = 0; i < outputs.size(); i++) {
            int number = state_->replaces[i];
            if (!number) continue;
            for (mx::array &output : outputs)
                if (&output.inputs() != &inputs && !output.is_tracer()) output.inputs().clear();
            size_t first = number > 0 ? static_cast<size_t>(number - 1) : 0,
                   last = number > 0 ? first + 1 : inputs.size();
            for (size_t j = first; j < last && !outputs[i].data_shared_ptr(); j++) {
                if (!can_take_over(inputs[j], outputs[i])) continue;
                outputs[i].copy_shared_buffer(inputs[j]);
                task.shared.push_back(outputs[i].data_shared_ptr());
            }
        }
    }

    static bool can_take_over(const mx::array &input, const mx::array &output) {
        return input.is_donatable() && input.flags().row_contiguous && input.data_size() == input.size() &&
               input.shape() == output.shape() && input.dtype() == output.dtype();
    }

    /* input itself where its elements lie in row order, else a copy scheduled before the node. */
    mx::array in_rows(const mx::array &input) {
        if (input.flags().row_contiguous || !input.size()) return input;
        mx::array copy = mx::contiguous(input, false, stream());
        Arrays copies{copy};
        copy.primitive().eval_cpu(copy.inputs(), copies);
        copy.detach();
        mx::cpu::get_command_encoder(stream()).add_temporary(copy);
        return copy;
    }
};

bool has_like(const zm_node_output &spec, int number, const mlx_array *inputs, int n_inputs) {
    if (number < 0 || number >= n_inputs) return false;
    const auto &input = *static_cast<const mx::array *>(inputs[number].ctx);
    return input.dtype() == zm::to_cpp(spec.dtype) && input.shape() == mx::Shape(spec.shape, spec.shape + spec.n_dims);
}

/* Checks what comes from C before it becomes MLX objects. */
void check(const zm_node_output *specs, int n_outputs, const mlx_array *inputs, int n_inputs,
           mlx_stream stream) {
    if (n_outputs < 1) throw std::invalid_argument("a node needs an output");
    if (!stream.ctx) throw std::invalid_argument("expected a non-empty stream");
    for (int i = 0; i < n_inputs; i++)
        if (!inputs[i].ctx) throw std::invalid_argument("input " + std::to_string(i) + " is empty");
    for (int i = 0; i < n_outputs; i++) {
        const zm_node_output &spec = specs[i];
        if (spec.n_dims > ZM_NODE_MAX_DIMS)
            throw std::invalid_argument("an output of " + std::to_string(spec.n_dims) +
                                        " dimensions, expected at most " + std::to_string(ZM_NODE_MAX_DIMS));
        bool valid = spec.n_dims >= 0 && zm::is_dtype(spec.dtype);
        for (int d = 0; valid && d < spec.n_dims; d++) valid = spec.shape[d] >= 0;
        if (!valid) throw std::invalid_argument("no valid shape or dtype for output " + std::to_string(i));
        if (spec.continues && !has_like(spec, spec.continues, inputs, n_inputs))
            throw std::invalid_argument("no input that output " + std::to_string(i) + " can continue");
        if (spec.replaces > 0 && !has_like(spec, spec.replaces - 1, inputs, n_inputs))
            throw std::invalid_argument("no input that output " + std::to_string(i) + " can replace");
    }
}

Arrays make_outputs(const zm_node_output *specs, int n_outputs, std::shared_ptr<State> state,
                    const mlx_array *inputs, int n_inputs, mlx_stream stream) {
    check(specs, n_outputs, inputs, n_inputs, stream);
    Arrays arguments;
    for (int i = 0; i < n_inputs; i++) arguments.push_back(*static_cast<mx::array *>(inputs[i].ctx));
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> types;
    for (int i = 0; i < n_outputs; i++) {
        shapes.emplace_back(specs[i].shape, specs[i].shape + specs[i].n_dims);
        types.push_back(zm::to_cpp(specs[i].dtype));
    }
    auto node = std::make_shared<Node>(*static_cast<mx::Stream *>(stream.ctx), std::move(state));
    if (n_outputs == 1) return {mx::array(shapes[0], types[0], std::move(node), std::move(arguments))};
    return mx::array::make_arrays(std::move(shapes), types, node, arguments);
}

}  // namespace

bool zm_view_of(zm_view *view, mlx_array handle) {
    const auto &array = *static_cast<const mx::array *>(handle.ctx);
    if (!array.is_available() || !array.flags().row_contiguous) return false;
    *view = {array.size() ? const_cast<void *>(array.data<void>()) : nullptr, array.shape().data(),
             static_cast<int>(array.ndim()), zm::to_c(array.dtype()), array.size(), 0};
    return true;
}

uintptr_t zm_array_id(mlx_array handle) { return static_cast<const mx::array *>(handle.ctx)->id(); }

zmlx_status zm_node_apply(mlx_array *outputs, const zm_node_output *specs, int n_outputs,
                          const zm_node_class *node_class, void *state, const mlx_array *inputs, int n_inputs,
                          mlx_stream stream, zmlx_error *error) {
    for (int i = 0; i < n_outputs; i++) outputs[i] = mlx_array{};
    try {
        std::shared_ptr<State> owner;
        try {
            owner = std::make_shared<State>(node_class, state, specs, n_outputs);
        } catch (...) {
            if (node_class->free_state) node_class->free_state(state);
            throw;
        }
        auto arrays = make_outputs(specs, n_outputs, std::move(owner), inputs, n_inputs, stream);
        for (size_t i = 0; i < arrays.size(); i++) outputs[i].ctx = new mx::array(std::move(arrays[i]));
        return ZMLX_OK;
    } catch (const std::exception &exception) {
        for (int i = 0; i < n_outputs; i++) {
            mlx_array_free(outputs[i]);
            outputs[i] = mlx_array{};
        }
        return zm_fail(error, ZMLX_ERROR_MLX, node_class->name, "%s", exception.what());
    }
}
