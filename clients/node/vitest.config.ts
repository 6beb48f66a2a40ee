import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 4,
    testTimeout: 90_000,
    hookTimeout: 120_000,
    retry: process.env['CI'] === 'true' ? 1 : 0,
    dangerouslyIgnoreUnhandledErrors: false,
  },
});
