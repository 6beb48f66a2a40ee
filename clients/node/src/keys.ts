// Keys of cached values. Different arguments make different keys on every machine and in every language: only types with
// one written form are accepted, and what could be mistaken for a separator or a hash tag is percent-encoded.

/** What can be part of a key. A whole number must be a safe integer, else a bigint. */
export type KeyPart = string | number | bigint | boolean;

const ENCODED: Record<string, string> = { '%': '%25', ':': '%3A', '{': '%7B', '}': '%7D' };

/** The written form of a part of a key. */
export function keyPart(value: unknown, name: string): string {
  switch (typeof value) {
    case 'string':
      return value.replace(/[%:{}]/g, (character) => ENCODED[character] ?? character);
    case 'boolean':
    case 'bigint':
      return String(value);
    case 'number':
      if (Number.isSafeInteger(value)) return String(value === 0 ? 0 : value);
  }
  const what = value === null ? 'null' : typeof value === 'object' ? (value.constructor?.name ?? 'object') : typeof value;
  throw new TypeError(
    `${name} is part of a key and must be a text, a whole number, a bigint or a boolean, not ${what}` +
      (value instanceof Date ? '; write a day as "2026-11-29"' : ''),
  );
}

/** `['user', 7]` is `user:7`. */
export function keyOf(parts: readonly unknown[]): string {
  if (parts.length === 0) throw new RangeError('a key must not be empty');
  return parts.map((part, index) => keyPart(part, `element ${index}`)).join(':');
}

type Piece = { text: string } | { field: string };

/** A template such as `user:{id}`. `{{` and `}}` stand for braces, as in the hash tag `{{user:{id}}}`. */
export class KeyTemplate {
  readonly #pieces: Piece[] = [];

  constructor(template: string) {
    if (!template) throw new RangeError('a key must not be empty');
    const pattern = /\{\{|\}\}|\{([A-Za-z_$][\w$]*)\}|[^{}]+|[{}]/gy;
    for (const [token, field] of template.matchAll(pattern)) {
      if (field !== undefined) this.#pieces.push({ field });
      else if (token === '{{' || token === '}}') this.#pieces.push({ text: token.charAt(0) });
      else if (token === '{' || token === '}') {
        throw new RangeError(`the key template '${template}' is not valid: a field is the name of an argument, as in {id}`);
      } else this.#pieces.push({ text: token });
    }
  }

  get fields(): string[] {
    return this.#pieces.flatMap((piece) => ('field' in piece ? [piece.field] : []));
  }

  key(values: Readonly<Record<string, unknown>>): string {
    return this.#pieces
      .map((piece) => ('text' in piece ? piece.text : keyPart(values[piece.field], `the argument '${piece.field}'`)))
      .join('');
  }
}
