"""What gotm would keep of pcap files, and why a cutoff of ours keeps otherwise. Standard library only.

  gotm_oracle.py BYTES PACKETS IDLE_SECONDS < list of files, one in a line

Prints a line for each file: its name, then a letter for each frame, which says the first rule by which what is kept differs:
  =    nobody differs: kept by both or by neither, in the line's second row of K (kept by ours) and - (not kept)
  l    a limit is what may be reached (gotm: what is just not reached)
  p    bytes are payload, by the headers (gotm: captured length less 58)
  k    what is not IP has no limit (gotm: shares the limit of one flow)
  f    a connection has a limit of its own (gotm: the same ends share it within the timeout)
  .    not compared: a frame of two hosts of whom some frame is not plain (a fragment, an extension header, a cut header, ...)
Prints `NAME skipped` for a file that is not classic pcap of Ethernet, or whose time goes back.

The rules are written down here once more, after what is known of gotm and what our documentation says, from the bytes of the
frames up: nothing is shared with the program.
"""
import struct
import sys


class Plain:
    """What a frame says that needs no knowledge of oddities."""

    def __init__(self, ends, protocol, payload, syn, fin, rst, seq):
        self.ends, self.protocol, self.payload = ends, protocol, payload
        self.syn, self.fin, self.rst, self.seq = syn, fin, rst, seq


def frames(data):
    """(nanoseconds, captured bytes, length on the wire) of each frame; None where this is no such file."""
    magics = {b'\xd4\xc3\xb2\xa1': ('<', 1000), b'\x4d\x3c\xb2\xa1': ('<', 1), b'\xa1\xb2\xc3\xd4': ('>', 1000), b'\xa1\xb2\x3c\x4d': ('>', 1)}
    if len(data) < 24 or data[:4] not in magics:
        return None
    order, unit = magics[data[:4]]
    if struct.unpack_from(order + 'HH', data, 4) != (2, 4) or struct.unpack_from(order + 'I', data, 20)[0] != 1:
        return None
    out, at = [], 24
    while at + 16 <= len(data):
        sec, part, caplen, wirelen = struct.unpack_from(order + 'IIII', data, at)
        if at + 16 + caplen > len(data):
            return None
        out.append((sec * 10**9 + part * unit, data[at + 16:at + 16 + caplen], wirelen))
        at += 16 + caplen
    return out if at == len(data) else None


def hosts(frame):
    """The two addresses of an IP frame, however odd; None if it is none."""
    kind, at = ethertype(frame)
    if kind == 0x0800 and len(frame) >= at + 20:
        return frozenset((frame[at + 12:at + 16], frame[at + 16:at + 20]))
    if kind == 0x86dd and len(frame) >= at + 40:
        return frozenset((frame[at + 8:at + 24], frame[at + 24:at + 40]))
    return None


def ethertype(frame):
    if len(frame) < 14:
        return None, 0
    kind, at = struct.unpack_from('>H', frame, 12)[0], 14
    if kind == 0x8100 and len(frame) >= 18:
        kind, at = struct.unpack_from('>H', frame, 16)[0], 18
    return kind, at


def plain(frame, wirelen):
    """What a plain frame says; 'other' for what is surely not IP; None for what only a full parser should judge."""
    if len(frame) != wirelen or len(frame) < 14:
        return None
    kind, at = ethertype(frame)
    if kind in (0x0806, 0x88cc):
        return 'other'
    if kind == 0x0800:
        if len(frame) < at + 20 or frame[at] != 0x45:
            return None
        total, _, fragment = struct.unpack_from('>HHH', frame, at + 2)
        if fragment & 0x3fff or total < 20 or at + total > len(frame):
            return None
        protocol, src, dst, l4, end = frame[at + 9], frame[at + 12:at + 16], frame[at + 16:at + 20], at + 20, at + total
    elif kind == 0x86dd:
        if len(frame) < at + 40 or frame[at] >> 4 != 6:
            return None
        length, protocol = struct.unpack_from('>HB', frame, at + 4)
        src, dst, l4, end = frame[at + 8:at + 24], frame[at + 24:at + 40], at + 40, at + 40 + length
        if end > len(frame) or length == 0:
            return None
    else:
        return None
    if protocol == 6:
        if end < l4 + 20 or frame[l4 + 12] >> 4 < 5 or l4 + (frame[l4 + 12] >> 4) * 4 > end:
            return None
        sport, dport, seq = struct.unpack_from('>HHI', frame, l4)
        flags = frame[l4 + 13]
        # A malformed option ends gotm's parser before it knows the ports.
        if not options(frame[l4 + 20:l4 + (frame[l4 + 12] >> 4) * 4]):
            return None
        payload = end - l4 - (frame[l4 + 12] >> 4) * 4
        return Plain(((src, sport), (dst, dport)), 6, payload, flags & 18 == 2, flags & 1, flags & 4, seq)
    if protocol == 17:
        if end < l4 + 8:
            return None
        sport, dport = struct.unpack_from('>HH', frame, l4)
        return Plain(((src, sport), (dst, dport)), 17, end - l4 - 8, False, False, False, 0)
    if protocol in (1, 58) and end - l4 >= 8:
        return Plain(((src, 0), (dst, 0)), protocol, end - l4, False, False, False, 0)
    return None


def options(text):
    while text and text[0] != 0:
        size = 1 if text[0] == 1 else text[1] if len(text) > 1 else 0
        if size < 1 or (text[0] != 1 and size < 2) or size > len(text):
            return False
        text = text[size:]
    return True


class Rules:
    """A cutoff of each direction, with as many of our rules as are asked for; with none it is gotm's."""

    ALL = 'lpkf'

    def __init__(self, nbytes, npackets, idle, ours):
        self.nbytes, self.npackets, self.idle, self.ours = nbytes, npackets, idle, ours
        self.flows = {}

    def keeps(self, now, frame, p):
        if p == 'other':
            if 'k' in self.ours:
                return True
            ends, protocol = (b'', b''), 0
        else:
            ends, protocol = p.ends, p.protocol
        key = (frozenset(ends), protocol)
        flow = self.flows.get(key)
        if flow is not None:
            over = 'f' in self.ours and (flow['rst'] or len(flow['fin']) == 2)
            if now - flow['last'] >= (2 * 10**9 if over else self.idle):
                flow = None
            elif 'f' in self.ours and p != 'other' and p.syn and not same(flow, p, over):
                flow = None
        if flow is None:
            isn = (p.ends[0], p.seq) if p != 'other' and p.syn else None
            flow = self.flows[key] = {'counts': {}, 'isn': isn, 'fin': set(), 'rst': False, 'last': now}
        flow['last'] = now
        if p != 'other':
            if p.fin:
                flow['fin'].add(ends[0])
            flow['rst'] = flow['rst'] or bool(p.rst)
        payload = p.payload if p != 'other' and 'p' in self.ours else max(len(frame) - 58, 0)
        counts = flow['counts'].setdefault(ends[0], [0, 0])
        counts[0] += payload
        counts[1] += 1
        if 'l' in self.ours:
            return counts[0] <= self.nbytes and counts[1] <= self.npackets
        return counts[0] < self.nbytes and counts[1] < self.npackets


def same(flow, p, over):
    """Whether a SYN is of the flow that is known."""
    if flow['isn'] is None:
        return False
    sender, seq = flow['isn']
    return seq == p.seq if sender == p.ends[0] else not over


def judge(name, nbytes, npackets, idle):
    with open(name, 'rb') as f:
        read = frames(f.read())
    if read is None or any(a[0] > b[0] for a, b in zip(read, read[1:])):
        return name + ' skipped'
    told = [plain(frame, wirelen) for _, frame, wirelen in read]
    odd = {hosts(frame) for (_, frame, _), p in zip(read, told) if p is None}
    stages = [Rules(nbytes, npackets, idle, Rules.ALL[:n]) for n in range(len(Rules.ALL) + 1)]
    kept, why = [], []
    for (now, frame, _), p in zip(read, told):
        if p is None or (p != 'other' and hosts(frame) in odd):
            kept.append('?')
            why.append('.')
            continue
        verdicts = [rules.keeps(now, frame, p) for rules in stages]
        changed = [Rules.ALL[n] for n in range(len(Rules.ALL)) if verdicts[n] != verdicts[n + 1]]
        kept.append('K' if verdicts[-1] else '-')
        why.append(changed[0] if verdicts[0] != verdicts[-1] else '=')
    return '%s %s %s' % (name, ''.join(kept), ''.join(why))


def main():
    nbytes, npackets, idle = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) * 10**9
    for line in sys.stdin:
        print(judge(line.rstrip('\n'), nbytes, npackets, idle))


if __name__ == '__main__':
    main()
