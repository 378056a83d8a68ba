// Just enough of PromQL to see which series an expression names. Whether it is valid is for Prometheus to say.

const TOKEN = /"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\[[^\]]*\]|[a-zA-Z_:][a-zA-Z0-9_:]*|[0-9.]+(?:e[+-]?[0-9]+)?[a-z]*|=~|!~|!=|==|<=|>=|\S/g;
/** Followed by labels in parentheses, which are no series. */
const GROUPING = new Set(['by', 'without', 'on', 'ignoring', 'group_left', 'group_right']);
const OPERATORS = new Set(['and', 'or', 'unless', 'bool', 'offset']);
const isName = (token) => /^[a-zA-Z_:]/.test(token ?? '');

/** Each series that `expr` selects: `{ name, matchers: [{ label, op, value }], text }`. */
export function selectors(expr) {
  const tokens = expr.match(TOKEN) ?? [];
  const found = [];
  for (let at = 0; at < tokens.length; at += 1) {
    const token = tokens[at];
    if (!isName(token) || OPERATORS.has(token)) continue;
    if (GROUPING.has(token)) {
      if (tokens[at + 1] === '(') at = tokens.indexOf(')', at);
      continue;
    }
    // A function or an aggregation.
    if (tokens[at + 1] === '(' || GROUPING.has(tokens[at + 1])) continue;
    const matchers = [];
    if (tokens[at + 1] === '{') {
      for (at += 2; tokens[at] !== '}'; at += 1) {
        if (tokens[at] === ',') continue;
        matchers.push({ label: tokens[at], op: tokens[at + 1], value: JSON.parse(tokens[at + 2]) });
        at += 2;
      }
    }
    const inside = matchers.map(({ label, op, value }) => label + op + JSON.stringify(value)).join(',');
    found.push({ name: token, matchers, text: inside ? `${token}{${inside}}` : token });
  }
  return found;
}
