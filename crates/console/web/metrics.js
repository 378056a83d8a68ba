// What a node's /metrics say, in the text format of Prometheus.

/** The sum of all samples of that name, whatever their labels. */
export function sum(text, name) {
  let total = 0;
  for (const line of text.split('\n')) {
    if (!line.startsWith(name)) continue;
    const rest = line.slice(name.length);
    if (rest[0] === ' ' || rest[0] === '{') total += Number(line.slice(line.lastIndexOf(' ') + 1));
  }
  return total;
}

/** What the charts are about, from two looks at a node; rates are per second. */
export function figures(now, before) {
  const seconds = before === null ? 0 : (now.at - before.at) / 1_000;
  const grown = (name) => (before === null ? 0 : Math.max(0, sum(now.text, name) - sum(before.text, name)));
  const pulses = grown('tidegate_pulse_seconds_count');
  return {
    connections: sum(now.text, 'tidegate_connections'),
    deliveries: seconds > 0 ? grown('tidegate_deliveries_total') / seconds : 0,
    pulseMs: pulses > 0 ? (grown('tidegate_pulse_seconds_sum') / pulses) * 1_000 : null,
  };
}
