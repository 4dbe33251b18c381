// Types of records and their parameters. There is no code here; the declarations of the package come from it.

/** @import { CallOptions } from './transport.js' */
/** @import { UploadProgress } from './upload.js' */

/** A record of any form. @typedef {Record<string, any>} AnyRecord */

/**
 * Fields that every record has.
 * @typedef {{id: string, created: string, updated: string, collectionId: string, collectionName: string}} SystemFields
 */

/**
 * A record as the server answers it: your fields, the system fields, and `expand`.
 * @template {object} T
 * @typedef {T & SystemFields & ('expand' extends keyof T ? {} : {expand?: Record<string, any>})} RecordData
 */

/**
 * A value that can be sent for a field: a Date for a time, a Blob or File for a file, null for none.
 * @template V
 * @typedef {V extends string ? (string extends V ? V | Date | Blob : V) | null
 *   : V extends readonly (infer E)[] ? readonly (string extends E ? E | Blob : E)[] | null
 *   : V | null} FieldValue
 */

/**
 * The fields of a new record.
 * @template {object} T
 * @typedef {{[K in Exclude<keyof T, 'expand' | keyof SystemFields>]?: FieldValue<T[K]>}
 *   & {id?: string, created?: string, updated?: string}
 *   & ('email' extends keyof T ? {password?: string, passwordConfirm?: string, oldPassword?: string} : {})} RecordInput
 */

/**
 * @template {object} T
 * @typedef {{[K in keyof T & string as NonNullable<T[K]> extends number ? `${K}+` | `${K}-` : never]?: number}
 *   & {[K in keyof T & string as NonNullable<T[K]> extends readonly any[] ? `${K}+` | `${K}-` | `+${K}` : never]?:
 *     FieldValue<T[K]> | (NonNullable<T[K]> extends readonly (infer E)[] ? E | Blob : never)}} Modifiers
 */

/**
 * The changes of a record: fields, and modifiers such as `'views+': 1`.
 * @template {object} T
 * @typedef {RecordInput<T> & Modifiers<T>} RecordChanges
 */

/**
 * @template {object} T
 * @typedef {(keyof RecordData<T> & string) | '*' | `${string}.${string}`
 *   | `${keyof T & string}:excerpt(${string})`} FieldName
 */

/**
 * @template {object} T
 * @typedef {`${'' | '-'}${keyof RecordData<T> & string}` | `${'' | '-'}${string}.${string}` | '@random' | '@rowid'
 *   | '-@rowid'} SortKey
 */

/**
 * @template {object} T
 * @template {FieldName<T>} F
 * @typedef {[F] extends [never] ? RecordData<T> : '*' extends F ? RecordData<T>
 *   : Pick<RecordData<T>, F & keyof RecordData<T>> & {expand?: any}} Selected
 */

/**
 * Options of calls that answer records. `fresh`: reads at the master, although there are replicas.
 * @template {object} T
 * @template {FieldName<T>} [F=never]
 * @typedef {CallOptions & {expand?: string | readonly string[], fields?: readonly F[], fresh?: boolean}} RecordOptions
 */

/**
 * @template {object} T
 * @template {FieldName<T>} [F=never]
 * @typedef {RecordOptions<T, F> & {filter?: string, sort?: SortKey<T> | readonly SortKey<T>[]}} QueryOptions
 */

/**
 * @template {object} T
 * @template {FieldName<T>} [F=never]
 * @typedef {QueryOptions<T, F> & {page?: number, perPage?: number, skipTotal?: boolean}} ListOptions
 */

/**
 * @template {object} T
 * @template {FieldName<T>} [F=never]
 * @typedef {RecordOptions<T, F> & {onProgress?: (progress: UploadProgress) => void}} WriteOptions
 */

/**
 * `ifMatch`: the record that you read, or its tag; the call fails with the code `changed` if the record has changed since.
 * @template {object} T
 * @template {FieldName<T>} [F=never]
 * @typedef {WriteOptions<T, F> & {ifMatch?: string | object}} UpdateOptions
 */

/**
 * @template R
 * @typedef {{page: number, perPage: number, totalItems: number, totalPages: number, items: R[]}} Page
 */

/**
 * @template {object} [T=AnyRecord]
 * @typedef {{action: 'create' | 'update' | 'delete', record: RecordData<T>}} RealtimeEvent
 */

export {};
