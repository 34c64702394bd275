#!/usr/bin/env python3
"""Holds deploy/prometheus/rules.yaml to series by promtool's unit tests, and to the runbook.

    rules.py promtool

For each alert: series on which it fires, and series near them on which it must not.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

sys.dont_write_bytecode = True
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RULES = REPOSITORY / "deploy/prometheus/rules.yaml"
RUNBOOK = REPOSITORY / "docs/RUNBOOK.md"
AT = "8h"  # when alerts are looked at; one sample a minute, from 0 on

BUILD = {"flowarc_build_info{version='1'}": "1x500"}
NEVER, ALWAYS = "0x500", "1x500"


def steady(per_minute):
    return f"0+{per_minute}x500"


def late(before, after, minutes=30):
    """One thing until so long before the end, then another."""
    return f"{before}x{480 - minutes} {after}x{minutes}"


def begins_late(per_minute, minutes=30):
    return f"0x{480 - minutes} 0+{per_minute}x{minutes}"


# Alert: (series on which it fires, series on which it does not), or more of the former before the latter. The values of a
# series are written as promtool takes them.
CASES = {
    "FlowarcDown": (
        {"up": late(1, 0), "flowarc_build_info{version='1'}": "1x450"},
        {"up": late(1, 0, minutes=4), "flowarc_build_info{version='1'}": "1x476"},
    ),
    "FlowarcAbsent": ({"up": ALWAYS}, BUILD),
    "FlowarcRestarting": (
        BUILD | {"process_start_time_seconds": "0x450 27000x10 27600x10 28200x30"},
        BUILD | {"process_start_time_seconds": "0x450 27000x10 27600x40"},
    ),
    "FlowarcNotReady": ({"flowarc_ready": late(1, 0)}, {"flowarc_ready": late(1, 0, minutes=8)}),
    "FlowarcKilled": (
        {"flowarc_archive_salvaged_total{outcome='published'}": late(0, 3), "process_start_time_seconds": late(0, 27_000)},
        {"flowarc_spool_segments_total{outcome='salvaged'}": late(0, 3), "process_start_time_seconds": late(0, 27_000)},
        {"flowarc_archive_salvaged_total{outcome='published'}": late(0, 3, minutes=90), "process_start_time_seconds": late(0, 23_400)},
    ),
    "FlowarcFileDescriptors": (
        BUILD | {"process_open_fds": "90x500", "process_max_fds": "100x500"},
        BUILD | {"process_open_fds": "80x500", "process_max_fds": "100x500"},
    ),
    "FlowarcSandboxRefuses": (
        {"flowarc_sandbox_refusals_total": late(0, 1)},
        {"flowarc_sandbox_refusals_total": late(0, 1, minutes=90)},
    ),
    "FlowarcClockStepped": (
        {"flowarc_clock_steps_backward_total": late(0, 1), "flowarc_clock_steps_forward_total": NEVER},
        {"flowarc_clock_steps_backward_total": late(0, 1, minutes=90), "flowarc_clock_steps_forward_total": NEVER},
    ),
    "FlowarcVersionsDiffer": (
        {"flowarc_build_info{version='1'}": "1x2000", "flowarc_build_info{version='2'}": "1x2000"},
        {"flowarc_build_info{version='1',instance='other'}": "1x2000", "flowarc_build_info{version='1'}": "1x2000"},
    ),
    "FlowarcKernelDrops": (
        {"flowarc_kernel_drops_total{interface='a'}": begins_late(20), "flowarc_ring_frames_total{interface='a'}": steady(1000)},
        {"flowarc_kernel_drops_total{interface='a'}": steady(3), "flowarc_ring_frames_total{interface='a'}": steady(20_000)},
        {"flowarc_kernel_drops_total{interface='a'}": steady(2), "flowarc_ring_frames_total{interface='a'}": steady(20_000)},
    ),
    "FlowarcInterfaceDrops": (
        {"flowarc_interface_drops_total{interface='a'}": steady(2), "flowarc_ring_frames_total{interface='a'}": steady(1000)},
        {"flowarc_interface_drops_total{interface='a'}": steady(1), "flowarc_ring_frames_total{interface='a'}": steady(1000)},
    ),
    "FlowarcSilent": (
        {"flowarc_ring_frames_total{interface='a'}": "0+600x450 270000x50"},
        {"flowarc_ring_frames_total{interface='a'}": "0+30x450 13500x50"},
    ),
    "FlowarcHeadersUnread": (
        {"flowarc_frames_total{outcome='malformed'}": steady(2), "flowarc_frames_total{outcome='kept'}": steady(98)},
        {"flowarc_frames_total{outcome='malformed'}": steady(1), "flowarc_frames_total{outcome='not_tcp'}": steady(99)},
    ),
    "FlowarcShedding": (
        {"flowarc_frames_total{outcome='shed'}": begins_late(1)},
        {"flowarc_frames_total{outcome='shed'}": late(0, 5, minutes=8)},
    ),
    "FlowarcEventSocketLost": (
        {"flowarc_eventsocket_connected": late(1, 0)},
        {"flowarc_eventsocket_connected": NEVER},
    ),
    "FlowarcNothingNamed": (
        {"flowarc_flows_total{outcome='no_uuid'}": steady(10), "flowarc_flows_total{outcome='archived'}": "70x500"},
        {"flowarc_flows_total{outcome='no_uuid'}": steady(10), "flowarc_flows_total{outcome='archived'}": steady(1)},
    ),
    "FlowarcFewNamed": (
        {"flowarc_flows_total{outcome='no_uuid'}": steady(6), "flowarc_flows_total{outcome='archived'}": steady(4)},
        {"flowarc_flows_total{outcome='no_uuid'}": steady(5), "flowarc_flows_total{outcome='archived'}": steady(5)},
    ),
    "FlowarcEventsUnclaimed": (
        {"flowarc_events_total{outcome='expired'}": steady(2), "flowarc_events_total{outcome='too_late'}": steady(1), "pcap_demuxer_uuids_total": steady(10)},
        {"flowarc_events_total{outcome='expired'}": steady(2), "pcap_demuxer_uuids_total": steady(10)},
    ),
    "FlowarcEventsLost": (
        {"flowarc_events_total{outcome='overflow'}": begins_late(1)},
        {"flowarc_eventsocket_dropped_total": begins_late(1)},
        {"flowarc_kernel_questions_dropped_total": begins_late(1)},
        {"flowarc_events_total{outcome='expired'}": steady(9), "flowarc_eventsocket_dropped_total": "7x500"},
    ),
    "FlowarcEventsBad": (
        {"flowarc_event_lines_bad_total{kind='malformed'}": steady(1), "pcap_tcpinfohandler_bad_events_total{reason='badip'}": NEVER},
        {"flowarc_event_lines_bad_total{kind='halfline'}": steady(1), "flowarc_event_lines_bad_total{kind='empty'}": NEVER,
         "pcap_tcpinfohandler_bad_events_total{reason='badip'}": NEVER},
    ),
    "FlowarcEventsLate": ({"flowarc_eventsocket_lag_seconds": "1.1x500"}, {"flowarc_eventsocket_lag_seconds": "1x500"}),
    "FlowarcNamesDisagree": (
        {"flowarc_names_told_total{by='disagreed'}": late(0, 1)},
        {"flowarc_events_total{outcome='disagreed'}": late(0, 1)},
        {"flowarc_names_told_total{by='kernel_only'}": steady(5), "flowarc_names_told_total{by='disagreed'}": late(0, 1, minutes=90)},
    ),
    "FlowarcKernelOverflows": (
        {"flowarc_kernel_overflows_total": late(0, 5)},
        {"flowarc_kernel_overflows_total": late(0, 2)},
    ),
    "FlowarcEventClientCutOff": (
        {"flowarc_eventsocket_clients_cut_off_total": late(0, 1)},
        {"flowarc_eventsocket_clients_cut_off_total": late(0, 1, minutes=90)},
    ),
    "FlowarcMemoryFilling": (
        {"flowarc_ledger_held_bytes": "81x500", "flowarc_ledger_budget_bytes": "100x500"},
        {"flowarc_ledger_held_bytes": "80x500", "flowarc_ledger_budget_bytes": "100x500"},
    ),
    "FlowarcMemoryFull": (
        {"flowarc_frames_total{outcome='no_room_for_packet'}": late(0, 1, minutes=10)},
        {"flowarc_flows_total{outcome='evicted_no_uuid'}": late(0, 1, minutes=10), "flowarc_ledger_held_bytes": "81x475 5x30", "flowarc_ledger_budget_bytes": "100x500"},
        {"flowarc_flows_total{outcome='evicted_no_uuid'}": late(0, 1, minutes=10), "flowarc_ledger_held_bytes": "80x500", "flowarc_ledger_budget_bytes": "100x500",
         "flowarc_frames_total{outcome='no_room_for_packet'}": "7x500"},
    ),
    "FlowarcHandshakesEvicted": (
        {"flowarc_flows_total{outcome='evicted_half_open'}": begins_late(1)},
        {"flowarc_flows_total{outcome='evicted_half_open'}": begins_late(1, minutes=8), "flowarc_flows_total{outcome='half_open'}": steady(9)},
    ),
    "FlowarcTooManyFlows": (
        {"flowarc_flows_total{outcome='over_max_flows'}": begins_late(1)},
        {"flowarc_flows_total{outcome='evicted_no_uuid'}": begins_late(1), "flowarc_ledger_held_bytes": "80x500", "flowarc_ledger_budget_bytes": "100x500"},
        {"flowarc_flows_total{outcome='evicted_no_uuid'}": begins_late(1), "flowarc_ledger_held_bytes": "81x500", "flowarc_ledger_budget_bytes": "100x500",
         "flowarc_flows_total{outcome='over_max_flows'}": "5x500"},
    ),
    "FlowarcDiskRefuses": (
        {"flowarc_archive_files_waiting": late(0, 1, minutes=3)},
        {"flowarc_spool_write_errors_total": begins_late(1, minutes=5)},
        {"flowarc_archive_files_waiting": late(1, 0), "flowarc_spool_write_errors_total": "7x500"},
    ),
    "FlowarcFilesLost": (
        {"flowarc_archive_flows_total{outcome='givenup'}": late(0, 1, minutes=10)},
        {"flowarc_archive_lost_packets_total": late(0, 1, minutes=10)},
        {"flowarc_archive_flows_total{outcome='saved'}": steady(9), "flowarc_archive_flows_total{outcome='givenup'}": late(0, 1)},
    ),
    "FlowarcNoFiles": (
        {"flowarc_flows_total{outcome='archived'}": steady(1), "flowarc_archive_flows_total{outcome='saved'}": "9x500"},
        {"flowarc_flows_total{outcome='archived'}": NEVER, "flowarc_archive_flows_total{outcome='saved'}": "9x500"},
    ),
    "FlowarcWritersBehind": (
        {"flowarc_archive_queue_length": "4097x500"},
        {"flowarc_spool_queued_bytes": "64000001x500"},
        {"flowarc_archive_queue_length": "4096x500", "flowarc_spool_queued_bytes": "64000000x500"},
    ),
    "FlowarcDiskSlow": (
        {f"flowarc_archive_write_seconds_bucket{{le='{le}'}}": steady(n) for le, n in (("1.05", 98), ("4.19", 100), ("+Inf", 100))},
        {f"flowarc_archive_write_seconds_bucket{{le='{le}'}}": steady(n) for le, n in (("0.26", 100), ("1.05", 100), ("+Inf", 100))},
    ),
    "FlowarcCatalogueLoses": (
        {"flowarc_catalogue_rows_total{outcome='lost'}": late(0, 1, minutes=10), "flowarc_catalogue_rows_total{outcome='unreadable'}": NEVER},
        {"flowarc_catalogue_errors_total": late(0, 1, minutes=10)},
        {"flowarc_catalogue_rows_total{outcome='recorded'}": steady(9), "flowarc_catalogue_rows_total{outcome='lost'}": "7x500"},
    ),
    "FlowarcCatalogueBehind": (
        {"flowarc_catalogue_rows_total{outcome='recorded'}": steady(1), "flowarc_catalogue_published_rows_total": "0+1x200 200x300", "process_start_time_seconds": NEVER},
        {"flowarc_catalogue_rows_total{outcome='recorded'}": steady(1), "flowarc_catalogue_published_rows_total": "0x120 0+1x380", "process_start_time_seconds": NEVER},
    ),
    "FlowarcPacketsLost": (
        {"flowarc_spool_packets_total{outcome='lost_queue'}": late(0, 1, minutes=10)},
        {"flowarc_spool_packets_total{outcome='written'}": steady(9), "flowarc_spool_packets_total{outcome='lost_queue'}": "7x500"},
    ),
    "FlowarcRetentionFails": (
        {"flowarc_spool_removal_errors_total": begins_late(60)},
        {"flowarc_spool_removal_errors_total": late(0, 3, minutes=8)},
    ),
    "FlowarcFlowsEvicted": (
        {"flowarc_capture_flows_ended_total{reason='evicted'}": begins_late(1)},
        {"flowarc_capture_flows_ended_total{reason='idle'}": steady(9), "flowarc_capture_flows_ended_total{reason='evicted'}": "7x500"},
    ),
    "FlowarcCutoffSuspended": ({"flowarc_capture_suspended": ALWAYS}, {"flowarc_capture_suspended": "1x400 0 1x99"}),
    "FlowarcLargeCommandFails": (
        {"flowarc_capture_commands_total{outcome='failed'}": late(0, 1)},
        {"flowarc_capture_commands_total{outcome='ok'}": steady(9), "flowarc_capture_commands_total{outcome='failed'}": "7x500"},
    ),
}
LATER = {"FlowarcVersionsDiffer": "30h"}  # those that take longer than AT


def main(promtool):
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    names = list(dict.fromkeys(rule["alert"] for rule in rules))
    assert set(names) == set(CASES), f"without a case, or without a rule: {set(names) ^ set(CASES)}"
    for rule in rules:
        assert rule["labels"].keys() == {"severity"} and rule["labels"]["severity"] in ("page", "ticket"), rule
        assert rule["annotations"]["runbook_url"] == f"docs/RUNBOOK.md#{rule['alert'].lower()}", rule
        assert rule["annotations"]["summary"], rule
    entries = re.findall(r"^### (Flowarc\w+)\n\n(.*?)(?=^#|\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
    assert [name for name, _ in entries] == names, f"the runbook has other alerts, or another order: {set(n for n, _ in entries) ^ set(names)}"
    for name, text in entries:
        for part in ("**Means:**", "**Lost:**", "**Look:**", "**Do:**"):
            assert part in text, f"{name} in the runbook lacks {part}"
    with tempfile.TemporaryDirectory() as folder:
        files = [test_file(pathlib.Path(folder), alert, [r for r in rules if r["alert"] == alert]) for alert in names]
        done = subprocess.run([promtool, "test", "rules", *files], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    print(f"{len(CASES)} alerts fire on the bad series and not on the good ones, and each has its runbook")


def test_file(folder, alert, rules):
    """promtool's test of one alert, with its rules alone: all of them would be evaluated every minute of each test."""
    (folder / f"{alert}.rules").write_text(json.dumps({"groups": [{"name": alert, "rules": rules}]}))
    *bad, good = CASES[alert]
    firing = f'count by (alertname) (ALERTS{{alertname="{alert}",alertstate="firing"}}) > bool 0'
    tests = []
    fires = [{"labels": f'{{alertname="{alert}"}}', "value": 1}]
    for what, series, expected in [*(("bad", series, fires) for series in bad), ("good", good, [])]:
        told = {"expr": firing, "eval_time": LATER.get(alert, AT), "exp_samples": expected}
        input_series = [{"series": labelled(name), "values": values} for name, values in series.items()]
        tests.append({"name": f"{alert}, {what}", "interval": "1m", "input_series": input_series, "promql_expr_test": [told]})
    file = folder / f"{alert}.json"
    file.write_text(json.dumps({"rule_files": [f"{alert}.rules"], "evaluation_interval": "1m", "tests": tests}))
    return file


def labelled(series):
    """The series with the labels that every scrape adds."""
    name, _, labels = series.replace("'", '"').rstrip("}").partition("{")
    own = [label for label in labels.split(",") if label]
    own += [f'{name}="{value}"' for name, value in (("instance", "server:9993"), ("job", "flowarc")) if not any(name in o for o in own)]
    return f"{name}{{{','.join(own)}}}"


if __name__ == "__main__":
    main(sys.argv[1])
