import { loader, same, atOnce } from './driver.mjs';
import { C, close } from './clients.mjs';
import { frontPage } from './frontPage.mjs';

const render = loader('html');
same(await atOnce(50, () => frontPage(render)), Array(50).fill('html'));
same([render.calls, await C('GET', 'page:1')], [1, 'html']);
await close();
