// NestJS: a service with a cached query, and a worker that starts and stops with the application. Run it with `node nest.js`.

import 'reflect-metadata';
import { Body, Controller, Get, Injectable, Module, Param, Post, type OnApplicationBootstrap, type OnApplicationShutdown } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { createCorral, Worker } from 'corral-client';

const corral = createCorral({ url: process.env['CORRAL_URL'] ?? 'redis://localhost:6379' });
const thumbnails = corral.queue<{ thumbnail: { id: number } }>('thumbnails');

@Injectable()
class Articles implements OnApplicationBootstrap, OnApplicationShutdown {
  readonly made: string[] = [];
  readonly article = corral.cached({ key: (id: number) => ['article', id], ttl: '5m', stale: '1h', load: (id) => this.query(id) });
  private readonly worker = new Worker(corral, thumbnails, { concurrency: 20 });

  constructor() {
    thumbnails.handle('thumbnail', { tries: 5, maxRuntime: '30s' }, ({ id }) => void this.made.push(`${id}.png`));
  }

  async query(id: number): Promise<{ id: number; title: string }> {
    return { id, title: `Article ${id}` };
  }

  async onApplicationBootstrap(): Promise<void> {
    await this.worker.start();
  }

  async onApplicationShutdown(): Promise<void> {
    await this.worker.stop();
    await corral.close();
  }
}

@Controller('articles')
class ArticlesController {
  private readonly articles: Articles;

  constructor(articles: Articles) {
    this.articles = articles;
  }

  @Get('thumbnails')
  thumbnails(): string[] {
    return this.articles.made;
  }

  @Get(':id')
  async read(@Param('id') id: string): Promise<{ id: number; title: string }> {
    return this.articles.article(Number(id));
  }

  @Post()
  async write(@Body() { id }: { id: number }): Promise<{ task: string }> {
    await this.articles.article.invalidate(id);
    return { task: await thumbnails.publish('thumbnail', { id }) };
  }
}

@Module({ providers: [Articles], controllers: [ArticlesController] })
class App {}

const app = await NestFactory.create(App, { logger: ['error'] });
app.enableShutdownHooks();
await app.listen(Number(process.env['PORT'] ?? 3000), '127.0.0.1');
