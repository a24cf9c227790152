"""HiP attention by definition, in PyTorch with float64: slow, short, and independent of the program."""

import math

import torch

TILE = 64


def document_of(position, starts):
    return max(start for start in starts if start <= position)


def tile_ranges(tile, num_tokens, starts, block, sinks, window):
    """Returns the block numbers (first sink, end of sinks = first searched, first of the window, end) of a tile."""
    begin = tile * TILE
    end = min(num_tokens, begin + TILE)
    document = document_of(begin, starts)
    last = (end - 1) // block + 1
    sink_end = min(document // block + sinks // block, last)
    window_begin = max(sink_end, max(document, begin - window + 1) // block)
    return document // block, sink_end, window_begin, last


def index_queries(query, group, head, dims, index_heads):
    """Returns (tokens, index heads, dims) for a KV head: its group's queries, or their sum in place of their mean."""
    queries = query[:, head * group:(head + 1) * group, dims].float()
    return queries if index_heads == "each" else queries.sum(1, keepdim=True)


def pick(query, key, starts, block, sinks, window, picks, dims, index_heads="each"):
    """Returns (KV heads, tokens, picks): block numbers, best first, -1 where there are fewer.

    The score of a block is the largest dot product of an index query of the token with a key of the block.
    """
    num_tokens, num_kv_heads = key.shape[:2]
    group = query.shape[1] // num_kv_heads
    result = torch.full((num_kv_heads, num_tokens, picks), -1, dtype=torch.int32)
    for head in range(num_kv_heads):
        queries = index_queries(query, group, head, dims, index_heads)
        scores = torch.einsum("ihd,jd->hij", queries, key[:, head, dims].float()).amax(0)  # (tokens, tokens)
        for token in range(num_tokens):
            _, begin, end, _ = tile_ranges(token // TILE, num_tokens, starts, block, sinks, window)
            if begin >= end:
                continue
            best = scores[token, begin * block:end * block].view(-1, block).amax(1)
            order = sorted(range(end - begin), key=lambda x: (-best[x].item(), x))[:picks]
            result[head, token, :len(order)] = torch.tensor([begin + x for x in order], dtype=torch.int32)
    return result


def unite(picks, num_tokens, starts):
    """Returns for every KV head and tile a dictionary {block: first row}."""
    lists = []
    for head in range(picks.shape[0]):
        for tile in range(math.ceil(num_tokens / TILE)):
            begin, end = tile * TILE, min(num_tokens, tile * TILE + TILE)
            previous = begin - TILE if document_of(begin, starts) < begin else begin
            entries = {}
            for token in range(previous, end):
                for entry in picks[head, token].tolist():
                    if entry >= 0:
                        entries.setdefault(entry, max(0, token - begin))
            lists.append(dict(sorted(entries.items())))
    return lists


def allowed_keys(lists, num_tokens, num_kv_heads, starts, block, sinks, window):
    """Returns the attention mask: (KV heads, tokens, tokens) bool."""
    tiles = math.ceil(num_tokens / TILE)
    allowed = torch.zeros(num_kv_heads, num_tokens, num_tokens, dtype=torch.bool)
    for head in range(num_kv_heads):
        for tile in range(tiles):
            sink, sink_end, window_begin, window_end = tile_ranges(tile, num_tokens, starts, block, sinks, window)
            rows = slice(tile * TILE, min(num_tokens, tile * TILE + TILE))
            allowed[head, rows, sink * block:sink_end * block] = True
            allowed[head, rows, window_begin * block:window_end * block] = True
            for entry, first_row in lists[head * tiles + tile].items():
                allowed[head, rows.start + first_row:rows.stop, entry * block:(entry + 1) * block] = True
    return allowed & torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril()


def attend(query, key, value, allowed, scale):
    """Returns (output, log-sum-exp) in float64; autograd gives the gradients."""
    group = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group, 1) for x in (key, value))
    scores = scale * torch.einsum("ihd,jhd->hij", query, key)
    scores = scores.masked_fill(~allowed.repeat_interleave(group, 0), -math.inf)
    return torch.einsum("hij,jhd->ihd", scores.softmax(-1), value), scores.logsumexp(-1).T
