"""Attention over the paged KV cache, in Triton: split decode with its merge, and prefill of any mixture of lengths.

softmax(scale * q k^T + bias) v, of a tile of queries and some positions at a time; sums are kept relative to the
largest score so far. Scores are in units of log 2, for `exp2`.

Row r of a tile is token r / heads of a sequence and head r % heads of the group that shares a key head, so that a key
is read once for all of them. Grids depend on shapes alone, and lengths are read on the device, so that a captured
launch stays right:

    split_decode   (sequences, key heads * blocks, splits)   one tile a sequence, whose positions are split
    merge_splits   (sequences, heads, tokens)                sums the splits
    mixed_prefill  (tiles, key heads * blocks)               tile i belongs to the sequence s with
             cu_seqlens[s] / tokens + s <= i < cu_seqlens[s + 1] / tokens + s + 1; some have no rows

q: [T, H, D], rows `q_stride` apart. out: [T, H, V]. cu_seqlens: [S + 1], seq_lens: [S], tables: [S, ..], all int32.
kv: a tile of 16 slots has keys [key heads, 16, D], and then values [key heads, 16, V] if they are no part of the keys.
scales: None, or bf16 where these are codes: a tile has keys' scales [key heads, 16], then values'. They are factors
of scores and weights, so that products with codes are exact; queries are spread as the keys of whole numbers are.
slopes, sinks: [H] fp32 or None. bias: [H, bias_stride] fp32 or None, where distance 0 is in column `bias_zero`.
Only positions that a sequence sees are read: other memory may hold NaN.
"""

import triton
import triton.language as tl

from models.kernels.triton.kv_codes import code_numbers, hadamard_signs

LOG2_E = tl.constexpr(1.4426950408889634)
_UNALIGNED = ["tables", "cu_seqlens", "seq_lens"]  # views into a step's buffers


@triton.jit
def _add_keys(
    sums, first, last, low, high, main, rest, main_low, rest_low, at_rows, heads, length,
    kv, scales, table, kv_head, scale, slopes, bias, bias_stride, bias_zero, IS_MASKED: tl.constexpr, S: tl.constexpr
):  # fmt: skip
    """Add positions first .. last - 1 to the sums. With a mask, only low <= position < high are read, else all.

    sums: total and largest score [rows], weighted values [rows, value columns]. main, rest: the queries' parts.
    main_low, rest_low: what their dtype drops of them. at_rows, heads: of the rows. length: of the context.
    """
    total, largest, weighted = sums
    for start in range(first, last, S.positions):
        at = start + tl.arange(0, S.positions)
        inside = (at >= low) & (at < high) if IS_MASKED else tl.full((S.positions,), True, tl.int1)
        slot = tl.load(table + at // S.block_size, mask=inside, other=0) * S.block_size + at % S.block_size
        tile = kv + (slot // 16).to(tl.int64) * S.tile_size
        of_head = kv_head * 16 + slot % 16
        keys = tile + of_head * S.key_size + S.main_at
        k = _rows(keys, inside, S.main, S.main_size, S.code).to(main.dtype)  # [positions, main]
        scores = tl.dot(main, tl.trans(k), input_precision=S.precision)  # [rows, positions], fp32
        if S.is_split:
            scores = tl.dot(main_low, tl.trans(k), scores)
        if S.rest:
            keys = tile + of_head * S.key_size + S.rest_at
            k_rest = _rows(keys, inside, S.rest, S.rest_size, S.code).to(main.dtype)
            scores = tl.dot(rest, tl.trans(k_rest), scores, input_precision=S.precision)
            if S.is_split:
                scores = tl.dot(rest_low, tl.trans(k_rest), scores)
        if S.code:
            at_scale = scales + (slot // 16).to(tl.int64) * S.scale_tile + kv_head * 16 + slot % 16
            v_scale = tl.load(at_scale, mask=inside, other=0.0).to(tl.float32)
            scores *= (scale * v_scale)[None, :]
            if S.has_values:
                v_scale = tl.load(at_scale + S.kv_heads * 16, mask=inside, other=0.0).to(tl.float32)
        else:
            scores *= scale
        if S.softcap > 0.0:  # tanh(x) = 1 - 2 / (exp(2 x) + 1)
            scores = S.softcap * (1.0 - 2.0 / (tl.exp2(scores * (2.0 * LOG2_E / S.softcap)) + 1.0))
        scores *= LOG2_E
        distance = at_rows[:, None] - at[None, :]
        if slopes is not None:
            scores -= (tl.load(slopes + heads) * LOG2_E)[:, None] * distance
        if bias is not None:  # hidden keys may be beyond the table
            column = tl.minimum(tl.maximum(bias_zero - distance, 0), bias_stride - 1)
            scores += tl.load(bias + heads[:, None] * bias_stride + column) * LOG2_E
        if IS_MASKED:
            seen = distance >= 0 if S.is_causal else (at < length)[None, :]
            if S.window:
                seen = seen & (distance < S.window) & (distance > -S.window)
            if S.chunk:
                seen = seen & (distance <= (at_rows % S.chunk)[:, None])
            scores = tl.where(seen & inside[None, :], scores, float("-inf"))
        best = tl.maximum(largest, tl.max(scores, 1))
        base = tl.where(best == float("-inf"), 0.0, best)  # rows that have seen no key yet
        weights = tl.exp2(scores - base[:, None])
        rescale = tl.exp2(largest - base)
        if S.has_values:
            values = tile + S.kv_heads * 16 * S.key_size + of_head * S.value_size
            v = _rows(values, inside, S.value_columns, S.value_size, S.code).to(
                main.dtype
            )  # [positions, value columns]
        else:
            v = k
        total = total * rescale + tl.sum(weights, 1)
        if S.code:
            weights *= v_scale[None, :]
        weighted = tl.dot(weights.to(main.dtype), v, weighted * rescale[:, None], input_precision=S.precision)
        largest = best
    return total, largest, weighted


@triton.jit
def _rows(starts, inside, COLUMNS: tl.constexpr, SIZE: tl.constexpr, CODE: tl.constexpr = 0):
    """Load SIZE numbers, given as such or as codes, from each start that is inside: [starts, COLUMNS], 0 elsewhere."""
    columns = tl.arange(0, COLUMNS)
    mask = inside[:, None] if COLUMNS == SIZE else inside[:, None] & (columns < SIZE)[None, :]
    numbers = tl.load(starts[:, None] + columns[None, :], mask=mask, other=0)
    if CODE:
        numbers = code_numbers(numbers, CODE)
    return numbers


@triton.jit
def _spread(x, COLUMNS: tl.constexpr, S: tl.constexpr):
    """Multiply queries x [rows, COLUMNS] by the Hadamard matrix. Returns them in x's dtype, and what that drops."""
    signs = hadamard_signs(COLUMNS, S.spread).to(x.dtype)
    whole = tl.dot(x, signs, input_precision=S.precision) * S.spread_factor
    high = whole.to(x.dtype)
    return high, (whole - high.to(tl.float32)).to(x.dtype)


@triton.jit
def _attend(
    q, q_stride, kv, scales, table, row, at, count, length, share, num_shares,
    scale, slopes, sinks, bias, bias_stride, bias_zero, S: tl.constexpr
):  # fmt: skip
    """Attend from `count` rows of a sequence, starting with `row` at position `at`, to a share of the context.

    Returns the rows' tokens and heads, whether they are rows, totals and largest scores [rows], and weighted values.
    """
    row_of_tile = tl.arange(0, S.rows)
    token, head = row_of_tile // S.heads, tl.program_id(1) % S.blocks * S.heads + row_of_tile % S.heads
    is_row = (token < count) & (head < S.group)
    kv_head = tl.program_id(1) // S.blocks
    heads = kv_head * S.group + tl.where(is_row, head, 0)
    queries = q + (row + token).to(tl.int64) * q_stride + heads * S.key_size
    main = _rows(queries + S.main_at, is_row, S.main, S.main_size)
    rest = _rows(queries + S.rest_at, is_row, S.rest, S.rest_size) if S.rest else main
    main_low, rest_low = main, rest
    if S.spread:
        main, main_low = _spread(main, S.main, S)
        if S.rest:
            rest, rest_low = _spread(rest, S.rest, S)
    low, high = 0, at + count
    if S.chunk:
        low = at // S.chunk * S.chunk
    elif S.window:
        low = tl.maximum(at - S.window + 1, 0)
    if not S.is_causal:
        high = tl.minimum(length, high + S.window - 1) if S.window else length
    steps = tl.cdiv(tl.cdiv(high - low, S.positions), num_shares) * S.positions  # of a share
    first = low + share * steps
    last = tl.minimum(high, first + steps)
    total = tl.zeros((S.rows,), tl.float32)
    largest = tl.full((S.rows,), float("-inf"), tl.float32)
    if sinks is not None:
        largest = tl.load(sinks + heads) * LOG2_E
        total += 1.0
    sums = total, largest, tl.zeros((S.rows, S.value_columns), tl.float32)
    at_rows = at + token
    if S.is_plain:  # all rows see what is up to the first one's position
        whole = tl.maximum(tl.minimum(last, at + 1) - first, 0) // S.positions * S.positions + first
        sums = _add_keys(
            sums, first, whole, low, high, main, rest, main_low, rest_low, at_rows, heads, length,
            kv, scales, table, kv_head, scale, slopes, bias, bias_stride, bias_zero, False, S
        )  # fmt: skip
        first = whole
    sums = _add_keys(
        sums, first, last, low, high, main, rest, main_low, rest_low, at_rows, heads, length,
        kv, scales, table, kv_head, scale, slopes, bias, bias_stride, bias_zero, True, S
    )  # fmt: skip
    total, largest, weighted = sums
    return row + token, heads, is_row, total, largest, weighted


@triton.jit
def _store(out, weighted, total, rows, heads, is_row, value_scale, S: tl.constexpr):
    """Store the outputs of a tile; 0 for a row that sees nothing, such as one of padding."""
    weighted = weighted * (value_scale / tl.where(total == 0.0, 1.0, total))[:, None]
    columns = tl.arange(0, S.value_columns)
    to = out + (rows.to(tl.int64) * (S.kv_heads * S.group) + heads) * S.value_size
    tl.store(to[:, None] + columns[None, :], weighted, mask=is_row[:, None] & (columns < S.value_size)[None, :])


@triton.jit(do_not_specialize=["table_stride"], do_not_specialize_on_alignment=_UNALIGNED)
def split_decode(
    q, q_stride, kv, scales, tables, table_stride, cu_seqlens, seq_lens,
    scale, value_scale, slopes, sinks, bias, bias_stride, bias_zero, out, parts, levels, S: tl.constexpr
):  # fmt: skip
    """Attend from sequences with at most `S.tokens` rows. A program computes a split of the positions.

    parts: [S, tokens, H, splits, V], outputs of the splits. levels: [S, tokens, H, splits], log 2 of their sums of
    exponentials, -inf where a split is empty. With one split, the result goes to `out`, and both are None. The number
    of splits is no constant, as it changes with contexts and sequences.
    """
    sequence, split, num_splits = tl.program_id(0), tl.program_id(2), tl.num_programs(2)
    row = tl.load(cu_seqlens + sequence)
    count = tl.load(cu_seqlens + sequence + 1) - row
    if count > S.tokens:
        return
    length = tl.load(seq_lens + sequence)
    table = tables + sequence.to(tl.int64) * table_stride
    rows, heads, is_row, total, largest, weighted = _attend(
        q, q_stride, kv, scales, table, row, length - count, count, length, split, num_splits,
        scale, slopes, sinks, bias, bias_stride, bias_zero, S
    )  # fmt: skip
    if parts is None:
        _store(out, weighted, total, rows, heads, is_row, value_scale, S)
    else:
        place = (sequence * S.tokens + rows - row).to(tl.int64) * (S.kv_heads * S.group) + heads
        place = place * num_splits + split
        divisor = tl.where(total == 0.0, 1.0, total)
        tl.store(levels + place, largest + tl.log2(divisor), mask=is_row)
        columns = tl.arange(0, S.value_columns)
        weighted = weighted / divisor[:, None]
        mask = is_row[:, None] & (columns < S.value_size)[None, :]
        tl.store(parts + place[:, None] * S.value_size + columns[None, :], weighted, mask=mask)


@triton.jit(do_not_specialize=["num_splits"], do_not_specialize_on_alignment=_UNALIGNED)
def merge_splits(
    parts, levels, num_splits, cu_seqlens, sinks, value_scale, out,
    MOST_SPLITS: tl.constexpr, SIZE: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """Sum the splits of a row and head, and its sink. SIZE: of a value, in COLUMNS columns."""
    sequence, head, token = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    num_heads, num_tokens = tl.num_programs(1), tl.num_programs(2)
    row = tl.load(cu_seqlens + sequence)
    count = tl.load(cu_seqlens + sequence + 1) - row
    if (count > num_tokens) | (token >= count):
        return
    splits, columns = tl.arange(0, MOST_SPLITS), tl.arange(0, COLUMNS)
    place = ((sequence * num_tokens + token).to(tl.int64) * num_heads + head) * num_splits + splits
    level = tl.load(levels + place, mask=splits < num_splits, other=float("-inf"))  # [MOST_SPLITS]
    best = tl.max(level, 0)
    if sinks is not None:
        sink = tl.load(sinks + head) * LOG2_E
        best = tl.maximum(best, sink)
    base = tl.where(best == float("-inf"), 0.0, best)
    weights = tl.exp2(level - base)
    total = tl.sum(weights, 0)
    if sinks is not None:
        total += tl.exp2(sink - base)
    mask = (level > float("-inf"))[:, None] & (columns < SIZE)[None, :]
    part = tl.load(parts + place[:, None] * SIZE + columns[None, :], mask=mask, other=0.0)
    result = tl.sum(part * weights[:, None], 0) * (value_scale / tl.where(total == 0.0, 1.0, total))
    to = out + ((row + token).to(tl.int64) * num_heads + head) * SIZE
    tl.store(to + columns, result, mask=columns < SIZE)


@triton.jit(do_not_specialize=["table_stride", "num_sequences"], do_not_specialize_on_alignment=_UNALIGNED)
def mixed_prefill(
    q, q_stride, kv, scales, tables, table_stride, cu_seqlens, seq_lens, num_sequences, least_rows,
    scale, value_scale, slopes, sinks, bias, bias_stride, bias_zero, out, S: tl.constexpr
):  # fmt: skip
    """Attend from sequences with at least `least_rows` rows. The last tiles, which see most, start first."""
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    sequence, end = 0, num_sequences  # the last one whose first tile is not after this one
    while sequence + 1 < end:
        middle = (sequence + end) // 2
        if tl.load(cu_seqlens + middle) // S.tokens + middle <= tile:
            sequence = middle
        else:
            end = middle
    row = tl.load(cu_seqlens + sequence)
    num_rows = tl.load(cu_seqlens + sequence + 1) - row
    skipped = (tile - row // S.tokens - sequence) * S.tokens  # rows in tiles before this one
    if (num_rows < least_rows) | (skipped >= num_rows):
        return
    length = tl.load(seq_lens + sequence)
    count = tl.minimum(num_rows - skipped, S.tokens)
    table = tables + tl.cast(sequence, tl.int64) * table_stride
    rows, heads, is_row, total, _, weighted = _attend(
        q, q_stride, kv, scales, table, row + skipped, length - num_rows + skipped, count, length, 0, 1,
        scale, slopes, sinks, bias, bias_stride, bias_zero, S
    )  # fmt: skip
    _store(out, weighted, total, rows, heads, is_row, value_scale, S)
