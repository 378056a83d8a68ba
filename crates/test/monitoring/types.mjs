// Writes the dashboard as TypeScript, for the types that Grafana publishes to judge it:
//
//   node types.mjs > dashboard.ts
//
// The type of a dashboard leaves open what the kinds of panels and of datasources add, so each part is held to the type of
// its kind besides.

import { dashboard, panels } from './lib/files.mjs';

/** Where `@grafana/schema` has each kind of panel, and whether it adds something to a field. */
const KINDS = {
  timeseries: { module: 'timeseries/panelcfg/x/TimeSeriesPanelCfg', hasField: true },
  stat: { module: 'stat/panelcfg/x/StatPanelCfg' },
  heatmap: { module: 'heatmap/panelcfg/x/HeatmapPanelCfg', hasField: true },
};

const lines = [
  "import type { AnnotationQuery, Dashboard, DataQuery } from '@grafana/schema';",
  ...Object.entries(KINDS).map(([kind, { module }]) => `import type * as ${kind} from '@grafana/schema/dist/esm/raw/composable/${module}_types.gen';`),
  // JSON has no enums; their values are strings.
  'type Json<T> = T extends string ? `${T}` : T extends (infer Item)[] ? Json<Item>[] : T extends object ? { [K in keyof T]: Json<T[K]> } : T;',
  // What the Prometheus datasource adds is in no package of types.
  "type Query = DataQuery & { expr: string; legendFormat?: string; format?: 'time_series' | 'heatmap' | 'table' };",
  'type Annotation = AnnotationQuery<Query> & { titleFormat?: string; textFormat?: string };',
];
let constants = 0;
const hold = (type, value) => lines.push(`export const _${(constants += 1)}: Json<${type}> = ${JSON.stringify(value, null, 2)};`);

const { annotations, ...rest } = dashboard();
hold('Dashboard', rest);
annotations.list.forEach((annotation) => hold('Annotation', annotation));
for (const { type, options, fieldConfig, targets } of panels()) {
  hold(`${type}.Options`, options);
  if (KINDS[type].hasField) hold(`${type}.FieldConfig`, fieldConfig.defaults.custom);
  targets.forEach((target) => hold('Query', target));
}
console.log(lines.join('\n'));
