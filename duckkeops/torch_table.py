"""What we answer for each torch function: the one table that dispatch, methods and tests read.

Every function of torch.overrides.get_overridable_functions() is in exactly one of the classes that
numpy_table describes: lazy, reduces, composite, point, metadata, refused. Functions stand under
their names below torch; a method of tensors is in the class of the function of its name, unless it
stands here itself. A row of ops.TABLE is lazy, for each torch function that it names.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

from duckkeops import ops, running
from duckkeops import torch_elementwise as entries
from duckkeops import torch_products as products
from duckkeops import torch_shapes as places
from duckkeops import torch_statistics as statistics
from duckkeops.expr import Node
from duckkeops.operands import leading_input
from duckkeops.tensors import torch_dtype
from duckkeops.torch_rules import as_node, autocast, axis_of


def _rows(**names: str) -> dict[str, Callable]:
    return {name: entries.row(ops.ROWS[row]) for name, row in names.items()}


def _words(text: str) -> list[str]:
    return text.split()


def _each(handler: Callable, names: str) -> dict[str, Callable]:
    return dict.fromkeys(names.split(), handler)


_F = "nn.functional."
_ACTIVATIONS = {  # name: parameters before inplace
    **dict.fromkeys(("silu", "mish", "selu", "hardswish", "hardsigmoid"), 0),
    **dict.fromkeys(("elu", "celu", "leaky_relu"), 1),
}

LAZY: dict[str, Callable] = {
    **_each(entries.add, "add Tensor.__add__ Tensor.__radd__"),
    **_each(entries.sub, "sub subtract Tensor.__sub__"),
    **_each(entries.rsub, "rsub Tensor.__rsub__"),
    **_each(entries.div, "div divide true_divide Tensor.__truediv__ Tensor.__div__"),
    **_each(entries.clamp, "clamp clip"),
    "clamp_min": entries.clamp_min,
    "clamp_max": entries.clamp_max,
    "where": entries.where,
    "Tensor.where": entries.where_of,
    "masked_fill": entries.masked_fill,
    "ldexp": entries.ldexp,
    "frexp": entries.frexp,
    "polar": entries.polar,
    "reciprocal": entries.reciprocal,
    "real": entries.real,
    "imag": entries.imag,
    **_each(entries.conj, "conj conj_physical"),
    **_each(entries.same, "resolve_conj resolve_neg Tensor.contiguous alias_copy Tensor.alias"),
    **_each(entries.clone, "clone"),
    **_each(entries.detach, "detach detach_copy"),
    **_each(entries.round, "round special.round"),
    **{name: entries.whole(name) for name in ("floor", "ceil", "trunc")},
    "fix": entries.whole("trunc"),
    **_each(entries.logit, "logit special.logit"),
    **_rows(
        **{
            "special.exp2": "exp2",
            "special.expm1": "expm1",
            "special.log1p": "log1p",
            "special.sinc": "sinc",
            "special.psi": "digamma",
            "special.modified_bessel_i0": "i0",
            "special.modified_bessel_i1": "i1",
        },
    ),
    # dunder methods of tensors that meet a lazy array
    **_rows(
        **{
            "Tensor.__mul__": "multiply",
            "Tensor.__rmul__": "multiply",
            "Tensor.__mod__": "remainder",
            "Tensor.__pow__": "pow",
            "Tensor.__floordiv__": "floor_divide",
            "Tensor.__and__": "bitwise_and",
            "Tensor.__rand__": "bitwise_and",
            "Tensor.__or__": "bitwise_or",
            "Tensor.__ror__": "bitwise_or",
            "Tensor.__xor__": "bitwise_xor",
            "Tensor.__rxor__": "bitwise_xor",
            "Tensor.__lshift__": "bitwise_left_shift",
            "Tensor.__rshift__": "bitwise_right_shift",
            "Tensor.__invert__": "bitwise_invert",
            "Tensor.__eq__": "equal",
            "Tensor.__ne__": "not_equal",
            "Tensor.__lt__": "less",
            "Tensor.__le__": "less_equal",
            "Tensor.__gt__": "greater",
            "Tensor.__ge__": "greater_equal",
            "__and__": "bitwise_and",
            "__or__": "bitwise_or",
            "__xor__": "bitwise_xor",
            "__lshift__": "bitwise_left_shift",
            "__rshift__": "bitwise_right_shift",
        },
    ),
    **{
        f"Tensor.__r{short}__": (lambda f: lambda self, other: f(other, self))(
            entries.row(ops.ROWS[row])
        )
        for short, row in (
            ("pow", "pow"),
            ("mod", "remainder"),
            ("floordiv", "floor_divide"),
            ("truediv", "divide"),
            ("div", "divide"),
            ("lshift", "bitwise_left_shift"),
            ("rshift", "bitwise_right_shift"),
        )
    },
    # activations
    **{
        prefix + name: entries.activation(name, n)
        for name, n in _ACTIVATIONS.items()
        for prefix in (_F, "")
    },
    **{prefix + "relu": entries.activation("relu", 0, True) for prefix in (_F, "")},
    _F + "relu6": entries.activation("relu6", 0, True),
    _F + "hardtanh": entries.activation("hardtanh", 2, True),
    _F + "_threshold": entries.activation("threshold", 2, True),
    "threshold": entries.activation("threshold", 2, True),
    **_each(entries.activation("gelu", 1), _F + "gelu"),
    **_each(entries.activation("softplus", 2), _F + "softplus"),
    **_each(entries.activation("softshrink", 1), _F + "softshrink"),
    **_each(entries.activation("hardshrink", 1), f"hardshrink {_F}hardshrink"),
    **_each(entries.prelu, f"prelu {_F}prelu"),
    **_each(entries.rrelu, f"rrelu {_F}rrelu"),
    **_each(
        entries.dropout,
        "dropout alpha_dropout feature_dropout feature_alpha_dropout "
        + " ".join(
            _F + name
            for name in (
                *("dropout", "dropout1d", "dropout2d", "dropout3d"),
                *("alpha_dropout", "feature_alpha_dropout"),
            )
        ),
    ),
    # conversions
    **{
        f"Tensor.{name}": entries.converted(dtype)
        for name, dtype in {
            "float": torch.float32,
            "double": torch.float64,
            "half": torch.float16,
            "bfloat16": torch.bfloat16,
            "long": torch.int64,
            "int": torch.int32,
            "short": torch.int16,
            "char": torch.int8,
            "byte": torch.uint8,
            "bool": torch.bool,
            "cfloat": torch.complex64,
            "cdouble": torch.complex128,
        }.items()
    },
    "Tensor.to": entries.to,
    "Tensor.cpu": entries.cpu,
    "Tensor.cuda": entries.cuda,
    "Tensor.type": entries.type_,
    "Tensor.type_as": entries.type_as,
    "zeros_like": entries.filled(0),
    "ones_like": entries.filled(1),
    "empty_like": entries.filled(0),
    "full_like": entries.filled(None),
    # the order and number of axes
    **_each(places.transpose, "transpose transpose_copy swapdims"),
    "swapaxes": places.swapaxes,
    **_each(places.t, "t t_copy"),
    "adjoint": places.adjoint,
    **_each(places.permute, "permute permute_copy"),
    **_each(places.movedim, "movedim moveaxis"),
    **_each(places.unsqueeze, "unsqueeze unsqueeze_copy"),
    **_each(places.squeeze, "squeeze squeeze_copy"),
    "reshape": places.reshape,
    **_each(places.view, "Tensor.view view_copy"),
    **_each(places.reshape_as, "Tensor.reshape_as Tensor.view_as"),
    "flatten": places.flatten,
    "ravel": places.ravel,
    "unflatten": places.unflatten,
    **_each(places.broadcast_to, "broadcast_to Tensor.expand expand_copy"),
    "Tensor.expand_as": places.expand_as,
    **_each(places.broadcast_tensors, "broadcast_tensors functional.broadcast_tensors"),
    **{
        f"{prefix}atleast_{n}d": places.atleast(n)
        for n in (1, 2, 3)
        for prefix in ("", "functional.")
    },
    **_each(places.meshgrid, "meshgrid functional.meshgrid"),
    # rows by number
    "flip": places.flip,
    "fliplr": places.fliplr,
    "flipud": places.flipud,
    "rot90": places.rot90,
    "roll": places.roll,
    **_each(places.tile, "tile Tensor.repeat"),
    "repeat_interleave": places.repeat_interleave,
    "index_select": places.index_select,
    **_each(places.select, "select select_copy"),
    **_each(places.narrow, "narrow narrow_copy"),
    "tril": places.tril,
    "triu": places.triu,
    # apart, and side by side
    **_each(places.split, "split functional.split split_copy unsafe_split"),
    **_each(
        places.split_with_sizes, "split_with_sizes split_with_sizes_copy unsafe_split_with_sizes"
    ),
    **_each(places.chunk, "chunk unsafe_chunk"),
    "tensor_split": places.tensor_split,
    "vsplit": places.split_along(0),
    "hsplit": places.split_along(1),
    "dsplit": places.split_along(2),
    **_each(places.unbind, "unbind unbind_copy"),
    **_each(places.cat, "cat concat concatenate"),
    "stack": places.stack,
    "hstack": places.joined(places.shapes.hstack),
    **_each(places.joined(places.shapes.vstack), "vstack row_stack"),
    "dstack": places.joined(places.shapes.dstack),
    "column_stack": places.joined(places.shapes.column_stack),
    **_each(places.pad, _F + "pad"),
    # products of all pairs of entries
    **_each(products.outer, "outer ger"),
    "addr": products.addr,
    **_each(products.cdist, "cdist functional.cdist"),
}

REDUCES: dict[str, Callable] = {
    **{
        name: getattr(statistics, name)
        for name in (
            *("sum", "mean", "prod", "var", "std", "var_mean", "std_mean", "min", "max"),
            *("amin", "amax", "aminmax", "argmin", "argmax", "any", "all", "count_nonzero"),
            *("logsumexp", "topk", "kthvalue", "sort", "argsort", "msort"),
        )
    },
    "special.logsumexp": statistics.logsumexp,
    **_each(products.matmul, "matmul linalg.matmul Tensor.__matmul__"),
    "Tensor.__rmatmul__": products.rmatmul,
    "mm": products.product("mm", 2, 2),
    "mv": products.product("mv", 2, 1),
    "bmm": products.product("bmm", 3, 3),
    "dot": products.product("dot", 1, 1),
    "einsum": products.einsum,
    **_each(products.tensordot, "tensordot functional.tensordot"),
    "inner": products.inner,
    "vdot": products.vdot,
    "linalg.vecdot": products.vecdot,
    "addmm": products.combined("addmm", 2, 2),
    "addmv": products.combined("addmv", 2, 1),
    "baddbmm": products.combined("baddbmm", 3, 3),
    "addbmm": products.combined("addbmm", 3, 3, True),
    **_each(products.linear, _F + "linear"),
    "linalg.multi_dot": products.multi_dot,
    **_each(products.chain_matmul, "chain_matmul functional.chain_matmul"),
}

_LOWER = (  # what torch.autocast computes in the lower precision, and what in float32
    "matmul linalg.matmul Tensor.__matmul__ Tensor.__rmatmul__ mm bmm einsum tensordot "
    "functional.tensordot inner linalg.vecdot addmm baddbmm addbmm linalg.multi_dot chain_matmul "
    f"functional.chain_matmul {_F}linear {_F}scaled_dot_product_attention"
)
_FLOAT32 = f"prod trace cdist functional.cdist {_F}mse_loss {_F}l1_loss {_F}smooth_l1_loss "
_FLOAT32 += f"{_F}huber_loss {_F}kl_div {_F}nll_loss {_F}cross_entropy "
_FLOAT32 += f"{_F}binary_cross_entropy_with_logits"

COMPOSITE: dict[str, Callable] = {
    "addcmul": entries.addcmul,
    "addcdiv": entries.addcdiv,
    "isclose": entries.isclose,
    "isreal": entries.isreal,
    "isin": entries.isin,
    "bucketize": entries.bucketize,
    "searchsorted": entries.searchsorted,
    "nan_to_num": entries.nan_to_num,
    "equal": statistics.equal,
    "allclose": statistics.allclose,
    "nansum": statistics.nansum,
    "nanmean": statistics.nanmean,
    **_each(statistics.softmax, f"softmax special.softmax {_F}softmax"),
    **_each(statistics.log_softmax, f"log_softmax special.log_softmax {_F}log_softmax"),
    **_each(statistics.softmin, _F + "softmin"),
    "cumsum": places.running_of(running.cumsum),
    "cumprod": places.running_of(running.cumprod),
    "diff": places.diff,
    **_each(places.trapezoid, "trapezoid trapz"),
    "trace": places.trace,
    "cross": products.cross,
    "linalg.cross": products.linalg_cross,
    "linalg.vector_norm": products.vector_norm,
    "linalg.matrix_norm": products.matrix_norm,
    "linalg.norm": products.linalg_norm,
    **_each(products.norm, "norm functional.norm Tensor.norm"),
    **_each(products.cosine_similarity, f"cosine_similarity {_F}cosine_similarity"),
    **_each(products.pairwise_distance, f"pairwise_distance {_F}pairwise_distance"),
    "dist": products.dist,
    _F + "normalize": products.normalize,
    _F + "scaled_dot_product_attention": products.attention,
    _F + "mse_loss": products.loss(products.squared),
    _F + "l1_loss": products.loss(products._gap),
    _F + "smooth_l1_loss": products.loss(products.smooth_l1),
    _F + "huber_loss": products.huber_loss,
    _F + "kl_div": products.kl_div,
    _F + "nll_loss": products.nll_loss,
    _F + "cross_entropy": products.cross_entropy,
    **_each(
        products.bce_with_logits,
        _F + "binary_cross_entropy_with_logits",
    ),
}

for _table in (LAZY, REDUCES, COMPOSITE):
    for _names, _lower in ((_LOWER, True), (_FLOAT32, False)):
        for _name in set(_words(_names)) & set(_table):
            _table[_name] = autocast(_table[_name], _lower)

POINT: dict[str, Callable] = {
    "gather": places.gather,
    "take_along_dim": places.take_along_dim,
    **_each(places.diagonal, "diagonal diagonal_copy"),
    "linalg.diagonal": places.linalg_diagonal,
    "diag": places.diag,
}


def _size(a: Node, dim: int | None = None) -> Any:
    shape = torch.Size(as_node(a).shape)
    return shape if dim is None else shape[axis_of(a, dim)]


def _of_dtype(test: Callable) -> Callable:
    return lambda input: test(torch_dtype(as_node(input).dtype))


METADATA: dict[str, Callable] = {
    **_each(lambda input: math.prod(as_node(input).shape), "numel Tensor.nelement"),
    **_each(lambda self: as_node(self).ndim, "Tensor.dim Tensor.ndimension"),
    "Tensor.size": _size,
    "Tensor.element_size": lambda self: as_node(self).dtype.itemsize,
    "is_floating_point": _of_dtype(lambda t: t.is_floating_point),
    "is_complex": _of_dtype(lambda t: t.is_complex),
    "is_signed": _of_dtype(lambda t: t.is_signed),
    "is_same_size": lambda input, other: tuple(as_node(input).shape) == tuple(as_node(other).shape),
    **_each(lambda input: False, "is_conj is_neg is_distributed is_inference Tensor.is_shared"),
    **_each(lambda input, *more: False, "Tensor.is_pinned Tensor.is_coalesced"),
    "get_device": lambda input: leading_input(as_node(input)).source.get_device(),
    "Tensor.__len__": lambda self: _size(self)[0],
}

_SOLVE = "Solve with an iterative method, duckkeops.linalg.solve(d, b), which only needs d @ b."
_EIGEN = (
    "Eigenvalues and singular values come from scipy.sparse.linalg.eigsh and svds, "
    "which only need d @ b."
)
_CHANGE = (
    "A lazy array cannot be changed, and no tensor takes all of its entries: write x = x + d "
    "instead of x += d, which stays lazy, or torch.where(mask, value, d)."
)
_MEMORY = "No entry is stored: ask this of the inputs."
_GRADIENT = (
    "Gradients flow from reductions to the inputs: x.requires_grad_(), "
    "then d.sum(1).sum().backward()."
)
_ALL = "It needs all entries: take chunks of rows, d[:1000].to_dense(), or reduce d first."
_NETWORK = "Apply the layer to the inputs, before pairs are made of them."
_RANDOM = "It draws numbers for all entries: draw the inputs, or rows and columns to index with."
_RANKS = "Ranks of a row are had by torch.kthvalue(d, k, dim=1) and torch.topk(d, k, dim=1)."
_PARTS = "Transform the inputs along their axes first, or chunks of rows: d[:1000].to_dense()."
_SPARSE = "Entries are not stored, sparse or not: d @ b multiplies by tensors."
_POLYNOMIAL = "Write the recurrence with + and *: each step stays lazy."
_LOSS = "Write the loss of each entry, which stays lazy, and take its mean: loss.mean()."
_FEATURES = "Write it with the functions that stay lazy: sums, exp, and slices of the features."

REFUSED: dict[str, str] = {
    name: remedy
    for names, remedy in (
        (
            "linalg.cholesky linalg.cholesky_ex linalg.inv linalg.inv_ex linalg.ldl_factor "
            "linalg.ldl_factor_ex linalg.ldl_solve linalg.lstsq linalg.lu linalg.lu_factor "
            "linalg.lu_factor_ex linalg.lu_solve linalg.pinv linalg.qr linalg.solve "
            "linalg.solve_ex linalg.solve_triangular linalg.tensorinv linalg.tensorsolve "
            "linalg.householder_product cholesky cholesky_inverse cholesky_solve geqrf inverse "
            "lu_solve lu_unpack orgqr ormqr pinverse qr triangular_solve functional.lu Tensor.lu",
            _SOLVE,
        ),
        (
            "linalg.cond linalg.det linalg.eig linalg.eigh linalg.eigvals linalg.eigvalsh "
            "linalg.matrix_rank linalg.slogdet linalg.svd linalg.svdvals det slogdet logdet svd "
            "lobpcg nuclear_norm functional.svd_lowrank functional.pca_lowrank",
            _EIGEN,
        ),
        (
            "linalg.matrix_exp linalg.matrix_power matrix_exp matrix_power",
            "Multiply repeatedly: d @ (d @ b).",
        ),
        ("linalg.vander", "Write d[..., None] ** k with the vector k of exponents."),
        (
            "median nanmedian quantile nanquantile mode",
            _RANKS,
        ),
        (
            "nonzero nonzero_static argwhere masked_select unique_consecutive functional.unique "
            "functional.unique_consecutive Tensor.unique combinations cartesian_prod "
            "functional.cartesian_prod",
            entries.COUNT,
        ),
        (
            "cummax cummin logcumsumexp cumulative_trapezoid gradient renorm histogramdd "
            "is_nonzero kron take cov corrcoef norm_except_dim native_norm "
            "hash_tensor dequantize block_diag functional.block_diag pdist unravel_index "
            f"functional.unravel_index {_F}pdist {_F}one_hot {_F}glu",
            _FEATURES,
        ),
        (
            "bincount histc histogram",
            "Count with duckkeops's own histogram of the distances, numpy.histogram(d, bins).",
        ),
        (
            "index_add index_copy index_fill index_put index_reduce masked_scatter put scatter "
            "scatter_add scatter_reduce select_scatter slice_scatter slice_inverse "
            "diagonal_scatter as_strided_scatter diagflat diag_embed Tensor.__setitem__ "
            "Tensor.index Tensor.apply_ Tensor.map_ Tensor.map2_ Tensor.resize Tensor.resize_as "
            "Tensor.set_ Tensor.__setstate__ Tensor.module_load Tensor.zero_",
            _CHANGE,
        ),
        ("Tensor.__getitem__", "Index with tensors: x[rows, columns]. Or mask with torch.where."),
        (
            "as_strided_copy slice_copy values_copy indices_copy row_indices_copy "
            "col_indices_copy crow_indices_copy ccol_indices_copy unfold_copy "
            "view_as_complex view_as_complex_copy view_as_real view_as_real_copy "
            "Tensor.as_strided Tensor.unfold Tensor.data_ptr Tensor.const_data_ptr "
            "Tensor.storage Tensor.storage_offset Tensor.storage_type Tensor.untyped_storage "
            "Tensor.stride Tensor.dim_order Tensor.is_contiguous Tensor.is_set_to Tensor._is_view "
            "Tensor.pin_memory Tensor.record_stream Tensor.share_memory_ Tensor.chalf "
            "Tensor.ipu Tensor.xpu Tensor.mtia Tensor.to_mkldnn Tensor.numpy Tensor.tolist "
            "Tensor.item Tensor.to_dense Tensor._to_dense Tensor.__array__ Tensor.__array_wrap__ "
            "Tensor.__dlpack__ Tensor.__dlpack_device__ Tensor.__bool__ Tensor.__nonzero__ "
            "Tensor.__int__ Tensor.__long__ Tensor.__float__ Tensor.__complex__ Tensor.__index__ "
            "Tensor.__contains__ Tensor.__reversed__ Tensor.__format__ Tensor.__repr__ "
            "Tensor.__deepcopy__ Tensor.__reduce_ex__ Tensor._nested_tensor_size "
            "Tensor._nested_tensor_storage_offsets Tensor._nested_tensor_strides "
            "Tensor._clear_non_serializable_cached_data Tensor._autocast_to_full_precision "
            "Tensor._autocast_to_reduced_precision Tensor.sum_to_size",
            _MEMORY,
        ),
        (
            "Tensor.backward Tensor.requires_grad_ Tensor.retain_grad Tensor.register_hook "
            "Tensor.register_post_accumulate_grad_hook",
            _GRADIENT,
        ),
    )
    for name in names.split()
}
# groups that are named by what they begin or end with, in this order
PATTERNS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Tensor.__i",), _CHANGE),
    (("fft.",), _PARTS),
    (
        ("stft", "istft", "functional.stft", "functional.istft", "Tensor.stft", "Tensor.istft"),
        _PARTS,
    ),
    (
        (
            *("special.chebyshev", "special.hermite", "special.laguerre", "special.legendre"),
            *("special.shifted", "special.spherical", "special.airy", "special.zeta"),
            *("special.gammainc", "special.multigammaln", "special.polygamma"),
            *("igamma", "mvlgamma", "polygamma", "Tensor.igamma"),
        ),
        _POLYNOMIAL,
    ),
    (
        (
            *("bernoulli", "binomial", "poisson", "multinomial", "native_dropout"),
            *("Tensor.bernoulli", _F + "gumbel_softmax"),
        ),
        _RANDOM,
    ),
    (
        (
            *("hspmm", "hsmm", "saddmm", "smm", "sspaddmm", "Tensor.coalesce", "Tensor.sparse"),
            *("Tensor.to_sparse", "Tensor.indices", "Tensor.values", "Tensor.dense_dim"),
            *("Tensor.crow_indices", "Tensor.col_indices", "Tensor.ccol_indices"),
            *("Tensor.row_indices", "Tensor._nnz", "Tensor._indices", "Tensor._values"),
            *("Tensor._dim", "Tensor._sparse", "Tensor._coalesced_", "Tensor.qscheme"),
        ),
        _SPARSE,
    ),
    (("sym_", "_sym_", "autocast"), _ALL),
)
_LOSSES = ("_loss", "_cross_entropy", "binary_cross_entropy_with_logits", "kl_div")
_REMAINING = frozenset(
    _words(
        """
    adaptive_avg_pool1d adaptive_max_pool1d affine_grid_generator avg_pool1d batch_norm
    batch_norm_backward_elemt batch_norm_backward_reduce batch_norm_elemt
    batch_norm_gather_stats batch_norm_gather_stats_with_counts batch_norm_stats
    batch_norm_update_stats bilinear channel_shuffle choose_qparams_optimized
    constant_pad_nd conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d
    conv_transpose3d convolution embedding embedding_bag fake_quantize_per_channel_affine
    fake_quantize_per_tensor_affine fbgemm_linear_fp16_weight
    fbgemm_linear_fp16_weight_fp32_activation fbgemm_linear_int8_weight
    fbgemm_linear_int8_weight_fp32_activation fbgemm_linear_quantize_weight
    fbgemm_pack_gemm_matrix_fp16 fbgemm_pack_quantized_matrix frobenius_norm
    fused_moving_avg_obs_fake_quant grid_sampler grid_sampler_2d grid_sampler_3d group_norm
    gru gru_cell instance_norm int_repr layer_norm lstm lstm_cell max_pool1d
    max_pool1d_with_indices max_pool2d max_pool3d miopen_batch_norm miopen_convolution
    miopen_convolution_add_relu miopen_convolution_relu miopen_convolution_transpose
    miopen_depthwise_convolution miopen_rnn native_batch_norm native_channel_shuffle
    native_group_norm native_layer_norm pixel_shuffle pixel_unshuffle q_per_channel_axis
    q_per_channel_scales q_per_channel_zero_points q_scale q_zero_point quantize_per_channel
    quantize_per_tensor quantize_per_tensor_dynamic quantized_batch_norm quantized_gru_cell
    quantized_lstm_cell quantized_max_pool1d quantized_max_pool2d quantized_max_pool3d
    quantized_rnn_relu_cell quantized_rnn_tanh_cell rms_norm rnn_relu rnn_relu_cell rnn_tanh
    rnn_tanh_cell adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d_with_indices
    adaptive_max_pool2d adaptive_max_pool2d_with_indices adaptive_max_pool3d
    adaptive_max_pool3d_with_indices affine_grid avg_pool2d avg_pool3d fold
    fractional_max_pool2d fractional_max_pool2d_with_indices fractional_max_pool3d
    fractional_max_pool3d_with_indices grid_sample interpolate local_response_norm lp_pool1d
    lp_pool2d lp_pool3d max_pool2d_with_indices max_pool3d_with_indices max_unpool1d
    max_unpool2d max_unpool3d multi_head_attention_forward unfold ctc_loss
"""
    )
)

CLASSES: dict[str, dict[str, Any]] = {
    "lazy": LAZY,
    "reduces": REDUCES,
    "composite": COMPOSITE,
    "point": POINT,
    "metadata": METADATA,
}
PROPERTIES: dict[str, str] = {  # of tensors, and their classes
    **dict.fromkeys(["T", "mT", "H", "mH", "real", "imag", "data"], "lazy"),
    **dict.fromkeys(
        _words(
            """
    shape dtype device ndim itemsize nbytes layout requires_grad is_leaf names name grad
    grad_fn retains_grad output_nr is_cpu is_cuda is_ipu is_maia is_meta is_mkldnn is_mps
    is_mtia is_nested is_quantized is_sparse is_sparse_csr is_vulkan is_xla is_xpu
"""
        ),
        "metadata",
    ),
    **dict.fromkeys(
        _words(
            """
    __cuda_array_interface__ _backward_hooks _base _cdata _grad _grad_fn
    _post_accumulate_grad_hooks _version grad_dtype volatile
"""
        ),
        "refused",
    ),
}


def _reach(name: str) -> Any:
    try:
        return functools.reduce(getattr, name.split("."), torch)
    except AttributeError:
        return None


_OTHERS = ("equal", "kl_div")  # rows of ours; torch's functions of these names are others


def _of_rows() -> dict[str, Callable]:
    """The rows of the table of operations, under each name that torch knows."""
    out: dict[str, Callable] = {}
    for op in ops.TABLE:
        names = (op.torch, op.name, *(a for a in op.aliases if isinstance(a, str)))
        for name in names:
            if name not in (None, *_OTHERS) and _reach(name) is not None:
                out.setdefault(name, entries.row(op))
                plain = name.removeprefix("special.")
                if plain != name and _reach(plain) is not None:
                    out.setdefault(plain, entries.row(op))
    return out


LAZY.update({k: f for k, f in _of_rows().items() if k not in LAZY})
_OF_NAME = {
    name: (kind, handler) for kind, rows in CLASSES.items() for name, handler in rows.items()
}
_OF_FUNCTION: dict[Any, tuple[str, Callable]] = {}
for _name, _line in _OF_NAME.items():
    if (_function := _reach(_name)) is not None:
        _OF_FUNCTION.setdefault(_function, _line)
for _name in dir(torch.Tensor):  # a method is a function of its own
    if callable(_method := getattr(torch.Tensor, _name)) and _name in _OF_NAME:
        _OF_FUNCTION.setdefault(_method, _OF_NAME[_name])

HANDLERS: dict[Any, Callable] = {f: handler for f, (_, handler) in _OF_FUNCTION.items()}
CHANGING = frozenset(
    method
    for name in dir(torch.Tensor)
    if callable(method := getattr(torch.Tensor, name))
    and (
        (
            name.startswith("__i")
            and name.endswith("__")
            and name
            not in (
                "__init__",
                "__int__",
                "__index__",
                "__invert__",
                "__iter__",
                "__init_subclass__",
            )
        )
        or (name.endswith("_") and not name.startswith("_"))
        or name == "__setitem__"
    )
)
METHODS: dict[str, Callable] = {
    name: HANDLERS[method]
    for name in dir(torch.Tensor)
    if not name.startswith("_") and (method := getattr(torch.Tensor, name)) in HANDLERS
}


@functools.cache
def name_of(func: Any) -> str:
    """The name to call a function by: torch.linalg.svd, torch.Tensor.add_."""
    name = torch.overrides.resolve_name(func)
    return name or f"torch.{getattr(func, '__name__', repr(func))}"


def _below_torch(func: Any) -> str:
    return name_of(func).removeprefix("torch.").removesuffix(".__get__")


def class_of(func: Any) -> str | None:
    """The class of a torch function; None if the table does not know it.

    >>> class_of(torch.exp), class_of(torch.sum), class_of(torch.linalg.svd)
    ('lazy', 'reduces', 'refused')
    """
    if func in _OF_FUNCTION:
        return _OF_FUNCTION[func][0]
    if getattr(func, "__name__", "") == "__get__":
        return PROPERTIES.get(_below_torch(func).removeprefix("Tensor."))
    return "refused" if remedy_of(func) else None


def refusal_of_method(name: str) -> str | None:
    """What the refusal of torch.Tensor.<name> says to do instead; None if it is not refused.

    As class_of and remedy_of, which look for the function's name: torch makes a table of all
    overridable functions for that, in 25 ms.
    """
    func = getattr(torch.Tensor, name)
    known = _OF_FUNCTION.get(func)
    remedy = _remedy(f"Tensor.{name}", func)
    refused = known[0] == "refused" if known else bool(remedy)
    return remedy if refused else None


@functools.cache
def remedy_of(func: Any) -> str:
    """What the refusal of a function says to do instead; empty if there is nothing special."""
    return _remedy(_below_torch(func), func)


def _remedy(name: str, func: Any) -> str:
    last = name.rpartition(".")[2]
    if name not in REFUSED and func in CHANGING:
        return _CHANGE
    for one in (name, last):
        if one in REFUSED:
            return REFUSED[one]
        for starts, remedy in PATTERNS:
            if one.startswith(starts):
                return remedy
    if last.endswith(_LOSSES):
        return _LOSS
    return _NETWORK if last in _REMAINING else ""
