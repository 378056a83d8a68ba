// The HTTP API of one node, every answer held to the node's own OpenAPI document: an undocumented status, content type
// or field is a failure, and so is a request that succeeds although the document forbids it.

import assert from 'node:assert/strict';
import { request } from './wire.mjs';

const PREFIX = '/api/v1';

const IS = {
  object: (value) => value !== null && typeof value === 'object' && !Array.isArray(value),
  array: Array.isArray,
  string: (value) => typeof value === 'string',
  boolean: (value) => typeof value === 'boolean',
  integer: Number.isInteger,
  null: (value) => value === null,
};

const KEYWORDS = {
  $ref: ({ $ref }, value, at, document) => faults(document, resolved(document, $ref), value, at),
  type: ({ type }, value, at) => ([type].flat().some((name) => IS[name](value)) ? [] : [`${at}: ${JSON.stringify(value)} is no ${type}`]),
  const: (schema, value, at) => (value === schema.const ? [] : [`${at}: ${JSON.stringify(value)} is not ${schema.const}`]),
  enum: (schema, value, at) => (schema.enum.includes(value) ? [] : [`${at}: ${JSON.stringify(value)} is none of ${schema.enum}`]),
  required: ({ required }, value, at) => required.filter((name) => !(name in value)).map((name) => `${at}.${name}: is missing`),
  properties: ({ properties }, value, at, document) =>
    // What nobody has described may not be there, whether or not the schema says so.
    Object.entries(value).flatMap(([name, each]) => (name in properties ? faults(document, properties[name], each, `${at}.${name}`) : [`${at}.${name}: is not described`])),
  items: ({ items }, value, at, document) => value.flatMap((each, i) => faults(document, items, each, `${at}[${i}]`)),
  maxItems: ({ maxItems }, value, at) => (value.length <= maxItems ? [] : [`${at}: has more than ${maxItems} entries`]),
  minLength: ({ minLength }, value, at) => (value.length >= minLength ? [] : [`${at}: is shorter than ${minLength}`]),
  minimum: ({ minimum }, value, at) => (value >= minimum ? [] : [`${at}: ${value} is below ${minimum}`]),
  maximum: ({ maximum }, value, at) => (value <= maximum ? [] : [`${at}: ${value} is above ${maximum}`]),
  pattern: ({ pattern }, value, at) => (new RegExp(pattern, 'u').test(value) ? [] : [`${at}: ${value} is not ${pattern}`]),
};

/** These say nothing about a value, or only together with `properties`. */
const SILENT = ['description', 'default', 'additionalProperties'];

function resolved(document, reference) {
  const found = reference.replace('#/', '').split('/').reduce((at, name) => at?.[name], document);
  assert.ok(found, `${reference} points nowhere`);
  return found;
}

/** What is wrong with `value`. A keyword that is not known here is a failure, not a rule to overlook. */
function faults(document, schema, value, at = 'answer') {
  const { type, ...rest } = schema;
  const found = type === undefined ? [] : KEYWORDS.type(schema, value, at);
  if (found.length > 0) return found;
  return Object.keys(rest).filter((name) => !SILENT.includes(name)).flatMap((name) => {
    assert.ok(KEYWORDS[name], `${at}: unknown keyword ${name}`);
    return KEYWORDS[name](schema, value, at, document);
  });
}

export class Api {
  /** Which operations succeeded at least once in this process, by their ids. */
  static succeeded = new Set();

  constructor(admin, document, key) {
    this.admin = admin;
    this.document = document;
    this.headers = key === undefined ? {} : { authorization: `Bearer ${key}` };
  }

  static async of(admin, key) {
    const { status, body } = await request(`${admin}/openapi.json`);
    assert.equal(status, 200);
    return new Api(admin, JSON.parse(body), key);
  }

  /** Every operation there is, by its id. */
  get operations() {
    return Object.values(this.document.paths).flatMap((verbs) => Object.values(verbs).map(({ operationId }) => operationId));
  }

  /**
   * `words` fill the names in the path of `template`; the rest of them is the query, or of a POST the body, unless
   * there is a `body` of another form. Gives status and body, both as documented.
   */
  async call(verb, template, words = {}, { headers = {}, body } = {}) {
    const operation = this.document.paths[PREFIX + template]?.[verb];
    assert.ok(operation, `${verb} ${template} is documented`);
    const rest = { ...words };
    const path = template.replace(/\{(\w+)\}/g, (_, name) => {
      const value = rest[name];
      delete rest[name];
      return encodeURIComponent(value);
    });
    const isBody = operation.requestBody !== undefined;
    const query = isBody ? '' : new URLSearchParams(rest).toString();
    const answer = await request(`${this.admin}${PREFIX}${path}${query && `?${query}`}`, {
      method: verb.toUpperCase(),
      headers: { ...this.headers, ...(isBody ? { 'content-type': 'application/json' } : {}), ...headers },
      body: body ?? (isBody ? JSON.stringify(rest) : undefined),
    });
    const what = `${verb} ${template} answered ${answer.status} ${answer.body}`;
    const described = operation.responses[answer.status];
    assert.ok(described, `${what}: no such status is documented`);
    const [[contentType, { schema }]] = Object.entries(described.content);
    assert.equal(answer.headers['content-type'], contentType, what);
    const said = JSON.parse(answer.body);
    assert.deepEqual(faults(this.document, schema, said), [], what);
    if (answer.status < 300) {
      if (body === undefined) assert.deepEqual(this.#misasked(operation, rest), [], what);
      Api.succeeded.add(operation.operationId);
    } else {
      assert.equal(said.status, answer.status, what);
      assert.ok(said.title.length > 0 && said.detail.length > 0, what);
    }
    return { status: answer.status, body: said, headers: answer.headers };
  }

  #misasked({ requestBody, parameters }, words) {
    if (requestBody !== undefined) return faults(this.document, requestBody.content['application/json'].schema, words, 'body');
    // A query is made of texts.
    const known = Object.fromEntries(parameters.filter((each) => each.in === 'query').map(({ name, schema }) => [name, schema]));
    return Object.entries(words).flatMap(([name, value]) => (name in known ? faults(this.document, known[name], value, name) : [`${name}: is not described`]));
  }

  async #succeeds(verb, template, words) {
    const { status, body } = await this.call(verb, template, words);
    assert.ok(status < 300, `${verb} ${template} answered ${status} ${JSON.stringify(body)}`);
    return body;
  }

  get(template, words) {
    return this.#succeeds('get', template, words);
  }

  post(template, words) {
    return this.#succeeds('post', template, words);
  }

  delete(template, words) {
    return this.#succeeds('delete', template, words);
  }
}
