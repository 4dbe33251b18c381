// The signals that the dashboard uses.
export interface Signal<T = any> {
  value: T;
}
export function signal<T>(value: T): Signal<T>;
export function useSignal<T>(value: T): Signal<T>;
export function computed<T>(compute: () => T): { readonly value: T };
export function effect(run: () => void | (() => void)): () => void;
export function batch<T>(run: () => T): T;
